"""`make advisories`: what is refused, and that nothing passes unseen. The client is pip-audit, the service is local."""

import os
import re
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest
from audit.conftest import Done, run_audit, write_lock
from conftest import REPO
from support.advisory_service import AdvisoryService

LOCKS = [path for path in REPO.rglob("requirements*.txt") if not path.relative_to(REPO).parts[0].startswith(".")]
EXCEPTION = """[[exception]]
id = "CVE-2020-28493"
package = "jinja2"
reason = "No template uses the filter urlize."
until = {until}
"""


def audit_jinja2(service: AdvisoryService, tmp_path: Path, exceptions: str, version: str = "2.11.2") -> Done:
    """Audit a lock that has only jinja2, with a file of exceptions."""
    lock, file = write_lock(tmp_path / "requirements.txt", f"jinja2=={version}"), tmp_path / "advisories.toml"
    file.write_text(exceptions)
    return run_audit("advisories.py", "--exceptions", file, lock, url=service.url)


def test_make_advisories_passes_with_our_locks(service: AdvisoryService) -> None:
    environment = {**os.environ, "PIP_AUDIT_OSV_URL": service.url}
    command = ["make", "--no-print-directory", "advisories"]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"in {len(LOCKS)} locks" in done.stdout


def test_every_version_of_every_lock_is_asked_about(service: AdvisoryService) -> None:
    """Also those for another Python or another system, which pip-audit alone leaves out."""
    pinned = {
        (name, version)
        for path in LOCKS
        for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", path.read_text(), re.MULTILINE)
    }
    assert {"win32", "3.12"} <= set(re.findall(r"win32|3\.12", "".join(path.read_text() for path in LOCKS)))
    assert run_audit("advisories.py", url=service.url).returncode == 0
    assert service.asked == pinned


def test_version_with_an_advisory_is_named(service: AdvisoryService, tmp_path: Path) -> None:
    done = audit_jinja2(service, tmp_path, "")
    assert done.returncode == 1
    assert done.stderr == (
        f"jinja2 2.11.2 ({tmp_path}/requirements.txt) has the advisory CVE-2020-28493 = GHSA-g3rq-g295-4j3m: "
        "The filter urlize needs very long for some texts (mended in 2.11.3). "
        "Run `make lock`, or accept it in audit/advisories.toml.\n"
    )


def test_version_that_mends_the_advisory_passes(service: AdvisoryService, tmp_path: Path) -> None:
    assert audit_jinja2(service, tmp_path, "", version="2.11.3").returncode == 0


def test_version_for_another_system_is_refused_too(service: AdvisoryService, tmp_path: Path) -> None:
    pins = ["jinja2==3.1.6 ; sys_platform == 'linux'", "jinja2==2.11.2 ; sys_platform == 'win32'"]
    done = run_audit("advisories.py", write_lock(tmp_path / "requirements.txt", *pins), url=service.url)
    assert (done.returncode, done.stderr[:14]) == (1, "jinja2 2.11.2 ")


def test_exception_counts_until_the_end_of_its_day(service: AdvisoryService, tmp_path: Path) -> None:
    done = audit_jinja2(service, tmp_path, EXCEPTION.format(until=date.today()))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 accepted" in done.stdout


def test_exception_that_has_ended_is_refused(service: AdvisoryService, tmp_path: Path) -> None:
    done = audit_jinja2(service, tmp_path, EXCEPTION.format(until=date.today() - timedelta(days=1)))
    assert done.returncode == 1
    assert "the exception for CVE-2020-28493 of jinja2 ended on" in done.stderr


def test_exception_of_the_docs_page_is_valid(service: AdvisoryService, tmp_path: Path) -> None:
    page = (REPO / "docs/supply-chain.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    done = audit_jinja2(service, tmp_path, example.replace("2027-01-31", "2999-01-31"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("key", ["id", "package", "reason", "until"])
def test_exception_needs_all_four_keys(service: AdvisoryService, tmp_path: Path, key: str) -> None:
    lines = EXCEPTION.format(until="2999-01-31").splitlines()
    done = audit_jinja2(service, tmp_path, "\n".join(line for line in lines if not line.startswith(key)))
    assert done.returncode == 1
    assert "an exception needs id, package, reason and until" in done.stderr


@pytest.mark.parametrize(("old", "new"), [("No template uses the filter urlize.", " "), ("2999-01-31", '"never"')])
def test_exception_needs_a_reason_and_a_date(service: AdvisoryService, tmp_path: Path, old: str, new: str) -> None:
    done = audit_jinja2(service, tmp_path, EXCEPTION.format(until="2999-01-31").replace(old, new))
    assert done.returncode == 1
    assert "an exception needs id, package, reason and until" in done.stderr


def test_exception_with_a_wrong_title_is_refused(service: AdvisoryService, tmp_path: Path) -> None:
    done = audit_jinja2(service, tmp_path, EXCEPTION.format(until="2999-01-31").replace("exception", "exceptions"))
    assert (done.returncode, "it may only have entries [[exception]]" in done.stderr) == (1, True)


def test_exception_of_another_package_does_not_count(service: AdvisoryService, tmp_path: Path) -> None:
    done = audit_jinja2(service, tmp_path, EXCEPTION.format(until="2999-01-31").replace("jinja2", "mako"))
    assert done.returncode == 1
    assert "jinja2 2.11.2" in done.stderr


def test_exception_that_no_lock_needs_is_refused(service: AdvisoryService, tmp_path: Path) -> None:
    done = audit_jinja2(service, tmp_path, EXCEPTION.format(until="2999-01-31"), version="2.11.3")
    assert done.returncode == 1
    assert "no lock needs the exception for CVE-2020-28493 of jinja2 any more: remove it" in done.stderr


def test_service_that_cannot_be_reached_is_no_success(tmp_path: Path) -> None:
    done = run_audit("advisories.py", write_lock(tmp_path / "requirements.txt", "jinja2==3.1.6"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "NOTHING WAS CHECKED" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("status", [404, 429, 500])
def test_service_that_answers_an_error_is_no_success(service: AdvisoryService, tmp_path: Path, status: int) -> None:
    service.status = status
    done = audit_jinja2(service, tmp_path, "")
    assert (done.returncode, "NOTHING WAS CHECKED" in done.stderr) == (3, True)


@pytest.mark.parametrize("line", ["jinja2>=3", "jinja2==3.1.6", "jinja2==3.*  --hash=sha256:" + "0" * 64])
def test_lock_without_version_or_hash_is_refused(service: AdvisoryService, tmp_path: Path, line: str) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(line + "\n")
    done = run_audit("advisories.py", lock, url=service.url)
    assert (done.returncode, "is not one version with hashes" in done.stderr) == (1, True)
