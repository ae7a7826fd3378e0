"""`make sbom`: each SBOM has the packages of its image, exactly."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from audit.conftest import AUDIT_BIN, Done, run_audit
from conftest import REPO
from packaging.requirements import Requirement

LOCKS = {
    "pyml": "pyml/requirements.txt",
    "pyml-gpu": "pyml/requirements-gpu.txt",
    "pypredict": "pypredict/requirements.txt",
}
VALIDATE = """import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(error and str(error))
"""

Component = tuple[str, str, frozenset[str]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the SBOMs for x86-64."""
    folder = tmp_path_factory.mktemp("sbom")
    done = run_audit("sbom.py", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in folder.iterdir()} == {f"{image}.cdx.json" for image in LOCKS}
    return folder


def components(path: Path) -> set[Component]:
    """Give name, version and SHA-256 of each component, and check that none is there twice."""
    listed: list[dict[str, Any]] = json.loads(path.read_text())["components"]
    assert len({each["name"] for each in listed}) == len(listed)
    return {
        (
            each["name"],
            each["version"],
            frozenset(sha["content"] for link in each["externalReferences"] for sha in link.get("hashes", [])),
        )
        for each in listed
    }


def packages_of_lock(lock: str, machine: str) -> set[Component]:
    """Read a lock without the code of audit/: what pip installs on Linux with Python 3.11."""
    text = (REPO / lock).read_text().replace("\\\n", " ")
    inside = {"sys_platform": "linux", "platform_machine": machine, "python_full_version": "3.11.0"}
    found = set()
    for line in re.findall(r"^[a-z].*", text, re.MULTILINE):
        requirement = Requirement(line.split(" --hash")[0])
        if requirement.marker is None or requirement.marker.evaluate(dict(inside)):
            hashes = frozenset(re.findall(r"sha256:(\w{64})", line))
            found.add((requirement.name, str(requirement.specifier)[2:], hashes))
    return found


@pytest.mark.parametrize("image", LOCKS)
def test_sbom_has_exactly_the_packages_of_the_lock(written: Path, image: str) -> None:
    listed = components(written / f"{image}.cdx.json")
    assert len(listed) > 30
    assert listed == packages_of_lock(LOCKS[image], "x86_64")


@pytest.mark.parametrize("image", LOCKS)
def test_sbom_is_valid_and_names_its_program(written: Path, image: str) -> None:
    path = written / f"{image}.cdx.json"
    done: Done = subprocess.run(
        [AUDIT_BIN / "python", "-c", VALIDATE, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(path.read_text())["metadata"]["component"]["name"] == image.removesuffix("-gpu")


def test_sbom_for_arm_has_the_packages_for_arm(tmp_path: Path) -> None:
    assert run_audit("sbom.py", "--machine", "aarch64", tmp_path).returncode == 0
    listed = components(tmp_path / "pyml.cdx.json")
    assert listed == packages_of_lock("pyml/requirements.txt", "aarch64")
    assert {"tensorflow", "tensorflow-cpu"} & {name for name, _, _ in listed} == {"tensorflow"}


def test_same_locks_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    assert run_audit("sbom.py", tmp_path).returncode == 0
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


@pytest.mark.parametrize("part", ["pyml", "pypredict"])
def test_each_lock_of_an_image_has_an_sbom(part: str) -> None:
    text = (REPO / part / "Dockerfile").read_text()
    installed = {f"{part}/{name}" for name in re.findall(r"requirements(?:-\w+)?\.txt", text)}
    assert installed == {lock for lock in LOCKS.values() if lock.startswith(f"{part}/")}
