"""The lock files of the repository, read: each pin with its marker and its hashes.

A lock is a `requirements*.txt` that `make lock` wrote. A folder whose name starts with a dot has none.
"""

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[1]


class AuditError(Exception):
    """Say in one sentence what was found and what to do."""


@dataclass(frozen=True)
class Pin:
    """One package of one lock: its name, its only version, for which machines, and the SHA-256 of its files."""

    name: str
    version: str
    requirement: Requirement
    hashes: tuple[str, ...]
    lock: str


def find_locks() -> list[Path]:
    """Find every lock of the repository."""
    found = glob.glob("**/requirements*.txt", root_dir=REPO, recursive=True)  # noqa: PTH207 - Path.rglob enters .venv
    return sorted(REPO / name for name in found)


def read_lock(path: Path) -> Iterator[Pin]:
    """Give the pins of a lock; raise AuditError if a line is not one version with hashes."""
    lock = path.relative_to(REPO).as_posix() if path.is_relative_to(REPO) else str(path)
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line.split(" --hash=")[0].strip())
        hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
        version = re.fullmatch(r"==([^*,]+)", str(requirement.specifier))
        if version is None or not hashes:
            raise AuditError(f"{lock}: {requirement} is not one version with hashes: run `make lock`.")
        yield Pin(requirement.name, version[1], requirement, hashes, lock)


def read_locks(paths: Iterable[Path]) -> list[Pin]:
    """Read several locks; raise AuditError if there is none."""
    pins = [pin for path in paths for pin in read_lock(path)]
    if not pins:
        raise AuditError("There is no lock with a package: give files that `make lock` wrote.")
    return pins
