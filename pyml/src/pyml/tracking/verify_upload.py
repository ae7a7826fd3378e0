"""Check what part of a record has arrived at the W&B server: history, files, inputs, and the bytes of its artifacts."""

import tempfile
import time
from pathlib import Path
from typing import Any

from bundle.messages import one_line
from pyml.tracking.local_run import LocalRun, StagedArtifact, lost_files, md5_of

ATTEMPTS, SECONDS_BETWEEN = 3, 1.5  # the server shows the received data with a short delay
REQUEST_SECONDS = 10


def find_missing(record: LocalRun) -> tuple[str, list[str]]:
    """Give the run's URL and the missing parts of the record. Raises the errors of the SDK.

    When a part is missing, at most one artifact is read: a record has many, and the answer is known already.
    """
    import wandb

    url, missing = "", [f"the run {record.run_id}"]
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(SECONDS_BETWEEN)
        api = wandb.Api(timeout=REQUEST_SECONDS)  # a new object each time, because it caches answers
        try:
            run = api.run(record.path)
        except (wandb.errors.CommError, ValueError) as error:
            missing = [f"the run {record.run_id} ({one_line(error)})"]
            continue
        url = run.url
        missing = [*_missing_history(run, record), *_missing_files(run, record), *_missing_inputs(run, record)]
        for artifact in record.artifacts:
            missing += _missing_bytes(api, run, artifact, record)
            if missing:
                break
        if not missing:
            break
    return url, missing


def _missing_history(run: Any, record: LocalRun) -> list[str]:
    arrived = -1 if run.lastHistoryStep is None else int(run.lastHistoryStep)
    return [f"its history after step {arrived} of {record.last_step}"] if arrived < record.last_step else []


def _missing_files(run: Any, record: LocalRun) -> list[str]:
    arrived = {file.name: file.size for file in run.files()}
    return [
        f"its file {name}"
        for name in sorted(record.files)
        if not _is_complete(record.directory / "files" / name, arrived.get(name))
    ]


def _missing_inputs(run: Any, record: LocalRun) -> list[str]:
    """List the artifacts that the run uses, of which the server does not know it."""
    inputs = {artifact.name: artifact for artifact in record.artifacts if artifact.is_input}
    arrived = {artifact.digest for artifact in run.used_artifacts()} if inputs else set()
    return [f"its use of {name}" for name, artifact in inputs.items() if artifact.digest not in arrived]


def _is_complete(local: Path, size: int | None) -> bool:
    return size is not None and (not local.is_file() or local.stat().st_size == size)


def _missing_bytes(api: Any, run: Any, staged: StagedArtifact, record: LocalRun) -> list[str]:
    """Download an artifact and compare every byte. Its manifest on the server can exist without the bytes."""
    alias = next((alias for alias in staged.aliases if alias != "latest"), "latest")
    try:
        artifact = api.artifact(f"{run.entity}/{run.project}/{staged.name}:{alias}")
        if artifact.digest != staged.digest:
            return [f"its artifact {staged.name} (another version has the alias {alias})"]
        with tempfile.TemporaryDirectory(prefix="readback-", dir=record.directory) as directory:
            artifact.download(directory, skip_cache=True)
            found = {name: Path(directory, name) for name in staged.files}
            differ = [
                name for name, path in found.items() if not path.is_file() or md5_of(path) != staged.files[name].md5
            ]
    except Exception as error:  # the SDK raises the errors of its HTTP client, which are of many kinds
        lost = lost_files(record)
        reason = (
            f"the bytes of {', '.join(lost)} are lost on this machine"
            if lost
            else one_line(error).partition(" for url")[0]
        )
        return [f"its artifact {staged.name} ({reason})"]
    return [f"{name} of its artifact {staged.name}" for name in differ]
