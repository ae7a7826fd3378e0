"""`make licences`: which licences pass. The packages are real folders in a real environment."""

import sys
import venv
from pathlib import Path

import pytest
from audit.conftest import Done, run_audit, write_lock
from conftest import REPO

RUNTIME = [path for part in ("pyml", "pypredict", "db") for path in sorted((REPO / part).glob("requirements*.txt"))]
POLICY = """allowed = ["MIT", "Apache-2.0", "MIT License"]
[[denied]]
licence = 'AGPL|Affero'
reason = "the source of a service must be published"
"""


class Environment:
    """An empty environment, to which a test adds packages that have only metadata."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", symlinks=True, with_pip=False)
        self.folder = folder
        self.pins: list[str] = []

    def add(self, name: str, *metadata: str) -> None:
        """Add version 1.0 of a package, and its pin."""
        (site,) = (self.folder / "venv").glob("lib/python*/site-packages")
        (site / f"{name}-1.0.dist-info").mkdir()
        lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *metadata]
        (site / f"{name}-1.0.dist-info/METADATA").write_text("\n".join(lines) + "\n")
        self.pins.append(f"{name}==1.0")

    def check(self, policy: str = POLICY) -> Done:
        """Check a lock with all pins."""
        file = self.folder / "licences.toml"
        file.write_text(policy)
        lock = write_lock(self.folder / "requirements.txt", *self.pins)
        return run_audit("licences.py", "--python", self.folder / "venv/bin/python", "--policy", file, lock)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_licences_of_the_runtime_packages_are_allowed() -> None:
    assert len(RUNTIME) == 5
    done = run_audit("licences.py", "--python", sys.executable, *RUNTIME)
    assert (done.returncode, done.stderr) == (0, "")


def test_allowed_licences_pass(environment: Environment) -> None:
    environment.add("one", "License-Expression: MIT AND Apache-2.0")
    environment.add("two", "Classifier: License :: OSI Approved :: MIT License")
    environment.add("three", "License: MIT")
    done = environment.check()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: AGPL-3.0-only",
        "License-Expression: MIT AND AGPL-3.0-or-later",
        "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
        "License: agpl",
    ],
)
def test_denied_licence_is_named_with_its_reason(environment: Environment, metadata: str) -> None:
    environment.add("sly", metadata)
    done = environment.check()
    assert done.returncode == 1
    assert done.stderr.startswith("sly has the denied licence ")
    assert done.stderr.endswith(": the source of a service must be published. Take another package.\n")


def test_license_field_counts_beside_the_classifier(environment: Environment) -> None:
    environment.add("sly", "License: AGPL-3.0", "Classifier: License :: OSI Approved :: MIT License")
    done = environment.check()
    assert (done.returncode, "sly has the denied licence 'AGPL-3.0'" in done.stderr) == (1, True)


@pytest.mark.parametrize("metadata", ["License: see the file", "License-Expression: MIT OR BUSL-1.1", "Summary: none"])
def test_unknown_licence_is_refused(environment: Environment, metadata: str) -> None:
    environment.add("sly", metadata)
    done = environment.check()
    assert (done.returncode, "licences.toml does not know" in done.stderr) == (1, True)


def test_package_that_is_not_installed_is_refused(environment: Environment) -> None:
    environment.pins.append("absent==1.0")
    done = environment.check()
    assert done.returncode == 1
    assert "absent is not installed: run `make install`, or state its licence in licences.toml" in done.stderr


def test_package_of_another_version_is_refused(environment: Environment) -> None:
    environment.add("old", "License: MIT")
    environment.pins = ["old==2.0"]
    done = environment.check()
    assert (done.returncode, done.stderr) == (1, "old 1.0 is installed, and the locks say 2.0: run `make install`.\n")


def test_stated_licence_is_judged_too(environment: Environment) -> None:
    environment.pins.append("absent==1.0")
    stated = '[[stated]]\npackage = "absent"\nlicence = "AGPL-3.0"\nsource = "its file LICENSE"\n'
    done = environment.check(POLICY + stated)
    assert (done.returncode, "absent has the denied licence 'AGPL-3.0'" in done.stderr) == (1, True)


EXCEPTION = '[[exception]]\npackage = "sly"\nlicence = "AGPL-3.0-only"\nreason = "only a test"\ndate = 2026-11-29\n'


def test_exception_with_reason_and_date_lets_a_package_pass(environment: Environment) -> None:
    environment.add("sly", "License-Expression: AGPL-3.0-only")
    done = environment.check(POLICY + EXCEPTION)
    assert (done.returncode, done.stderr) == (0, "")


def test_exception_is_for_one_licence(environment: Environment) -> None:
    environment.add("sly", "License-Expression: AGPL-3.0-or-later")
    done = environment.check(POLICY + EXCEPTION)
    assert (done.returncode, "sly has the denied licence" in done.stderr) == (1, True)


@pytest.mark.parametrize("key", ["licence", "reason", "date"])
def test_licence_exception_needs_reason_and_date(environment: Environment, key: str) -> None:
    environment.add("sly", "License-Expression: AGPL-3.0-only")
    lines = [line for line in EXCEPTION.splitlines() if not line.startswith(key)]
    done = environment.check(POLICY + "\n".join(lines))
    assert (done.returncode, "needs package, licence, reason and date" in done.stderr) == (1, True)


def test_entries_that_no_package_needs_are_refused(environment: Environment) -> None:
    environment.add("fine", "License: MIT")
    stated = '[[stated]]\npackage = "gone"\nlicence = "MIT"\nsource = "its file LICENSE"\n'
    done = environment.check(POLICY + EXCEPTION + stated)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "licences.toml: sly needs no exception for 'AGPL-3.0-only': remove it.",
        "licences.toml: no lock has gone, whose licence is stated: remove it.",
    ]


def test_stated_licence_may_be_of_an_installed_package(environment: Environment) -> None:
    """tensorflow and tensorflow-cpu are stated, and one of them is installed."""
    environment.add("fine", "License: MIT")
    stated = '[[stated]]\npackage = "fine*"\nlicence = "MIT"\nsource = "its file LICENSE"\n'
    done = environment.check(POLICY + stated)
    assert (done.returncode, done.stderr) == (0, "")
