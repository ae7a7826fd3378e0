"""The local record of a run, as the W&B SDK writes it: find records, read them, lock them.

    <root>/wandb/offline-run-<time>-<id>/   run-<id>.wandb  files/  logs/  arrived.json
    <root>/data/artifacts/staging/          the bytes of artifacts; run-<id>.wandb has only their names

arrived.json is our own file. It is written when the complete record was found on the server; the SDK's `.synced` only
says that a program ended. The directory of a run is locked while the run is recorded or uploaded.
"""

import base64
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.messages import one_line
from pyml import PymlError

ARRIVED_FILE = "arrived.json"
KINDS = ("DATA", "CACHE", "CONFIG", "ARTIFACT")  # directories that the SDK reads only from the environment


@dataclass(frozen=True)
class StagedFile:
    """A file of an artifact: md5 (base64, as W&B writes it), size in bytes, and the local path of its bytes."""

    md5: str
    size: int
    path: Path


@dataclass(frozen=True)
class StagedArtifact:
    """An artifact of a record. files: by their paths in the artifact. is_input: the run uses it."""

    name: str
    type: str
    digest: str
    aliases: tuple[str, ...]
    files: dict[str, StagedFile]
    is_input: bool = False


@dataclass(frozen=True)
class LocalRun:
    """The content of a record: the last step of its history (-1: none), its files, its artifacts."""

    directory: Path
    run_id: str
    project: str
    entity: str | None
    last_step: int
    files: frozenset[str]
    artifacts: tuple[StagedArtifact, ...]

    @property
    def path(self) -> str:
        """The path of the run for W&B's API. Without an entity, W&B uses the default entity of the API key."""
        return "/".join(part for part in (self.entity, self.project, self.run_id) if part)


def sdk_environment(root: Path) -> dict[str, str]:
    """Give the variables that keep the files of the SDK below root and turn its telemetry off."""
    directories = {f"WANDB_{kind}_DIR": str(root / kind.lower()) for kind in KINDS}
    # The telemetry waits for a silent server and writes to our terminal.
    return directories | {"WANDB_ERROR_REPORTING": "false"}


def list_records(root: Path) -> list[Path]:
    """List the directories of all records, oldest first."""
    found = (path.parent for path in (root / "wandb").glob("*run-*/run-*.wandb"))
    return sorted(
        (path for path in found if not path.is_symlink()), key=lambda path: path.name.removeprefix("offline-")
    )


def read_local_run(directory: Path) -> LocalRun:
    """Read a record with W&B's own tool, also the record of a killed trainer. Raises PymlError."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        run = next(line["run"] for line in lines if line["type"] == "run")
    except (OSError, subprocess.SubprocessError, ValueError, StopIteration) as error:
        raise PymlError(f"{directory} holds no readable W&B record ({one_line(error)})") from error
    steps = [line["history"]["step"].get("num", 0) for line in lines if line["type"] == "history"]
    files = [file["path"] for line in lines if line["type"] == "files" for file in line["files"]["files"]]
    artifacts = [_staged(line["artifact"]) for line in lines if line["type"] == "artifact"]
    return LocalRun(
        directory=directory,
        run_id=run["run_id"],
        project=run["project"],
        entity=run.get("entity") or None,
        last_step=max(map(int, steps), default=-1),
        files=frozenset(files),
        artifacts=tuple(artifacts),
    )


def lost_files(record: LocalRun) -> list[str]:
    """List the artifacts' files whose bytes are lost. `wandb sync` skips their artifact without a message."""
    return [
        f"{artifact.name}/{name}"
        for artifact in record.artifacts
        for name, file in artifact.files.items()
        if not file.path.is_file() or md5_of(file.path) != file.md5
    ]


def md5_of(path: Path) -> str:
    """Give a file's md5 as W&B writes it. It is used for comparison, not for security."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()


def has_arrived(directory: Path) -> bool:
    """Tell whether the complete record was found on the server."""
    return (directory / ARRIVED_FILE).is_file()


def lock_record(directory: Path) -> int | None:
    """Lock the record; None if another process holds the lock. Close the returned handle to unlock the record."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextmanager
def locked(directory: Path) -> Iterator[int | None]:
    """Hold the lock of a record during the block. Give None if another process holds it."""
    handle = lock_record(directory)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _staged(record: dict[str, Any]) -> StagedArtifact:
    contents = record["manifest"].get("contents", [])
    files = {
        entry["path"]: StagedFile(entry["digest"], int(entry.get("size", 0)), Path(entry["local_path"]))
        for entry in contents
        if entry.get("local_path")  # an entry without a local path is a reference to another place
    }
    return StagedArtifact(
        name=record["name"],
        type=record["type"],
        digest=record["digest"],
        aliases=tuple(record.get("aliases", ())),
        files=files,
        is_input=record.get("use_after_commit", False),
    )
