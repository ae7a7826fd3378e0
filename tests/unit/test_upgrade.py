"""What `make remove-old` removes: the data directories that an upgrade has kept, and no copy of a person."""

import os
import subprocess
from pathlib import Path

import pytest

from upgrade import EmbeddedUpgrade, StackUpgrade, Way, remove_old


class LocalStack(StackUpgrade):
    """The stack with a folder in place of its volume, and this machine's shell in place of a container."""

    def __init__(self, data: Path) -> None:
        self.image = "none"
        self.environment = os.environ | {"PGDATA": str(data)}

    def _shell(self, script: str, image: str) -> str:
        words = ["sh", "-ec", script]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(params=["data", "cluster"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The data directory of the embedded server, or of the stack."""
    made: Path = tmp_path.resolve() / "cluster" / request.param
    made.mkdir(parents=True)
    return made


def way_of(data: Path) -> Way:
    return EmbeddedUpgrade(data.parent.parent, None) if data.name == "data" else LocalStack(data)


def add(data: Path, suffix: str, version: str = "") -> None:
    folder = data.with_name(data.name + suffix)
    folder.mkdir()
    if version:
        (folder / "PG_VERSION").write_text(f"{version}\n")


def names(data: Path) -> list[str]:
    return sorted(path.name.removeprefix(data.name) for path in data.parent.iterdir())


def test_copies_of_a_person_are_not_removed(data: Path) -> None:
    own = ["-2026-11-01-my-copy", "-12-copy", "-12.bak", "-12x", "-012", "-9 9", ".upgrading"]
    for suffix in own:
        add(data, suffix, "12")
    add(data, "-13", "16")  # it holds another version than its name says
    data.with_name(data.name + "-14").write_text("a file")
    way = way_of(data)
    assert way.kept() == []
    remove_old(way)
    assert names(data) == sorted(["", "-13", "-14", *own])


def test_kept_data_are_found_and_removed(data: Path) -> None:
    add(data, "-12", "12")
    add(data, "-17")  # its version cannot be read
    add(data, "-2026-copy", "12")
    way = way_of(data)
    assert [Path(path).name for path in way.kept()] == [f"{data.name}-12", f"{data.name}-17"]
    remove_old(way)
    assert names(data) == ["", "-2026-copy"]
    remove_old(way)
    assert names(data) == ["", "-2026-copy"]


def test_data_are_not_moved_into_a_folder_of_a_person(data: Path) -> None:
    add(data, "-12", "13")
    add(data, ".upgrading", "18")
    (data / "postmaster.opts").touch()
    with pytest.raises((OSError, subprocess.CalledProcessError)):
        way_of(data).exchange(12)
    assert names(data) == ["", "-12", ".upgrading"]
    assert [path.name for path in data.with_name(f"{data.name}-12").iterdir()] == ["PG_VERSION"]
