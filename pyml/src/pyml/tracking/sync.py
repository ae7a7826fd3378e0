"""Upload the records that have not arrived: of offline runs, of interrupted uploads, of killed trainers."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pyml import PymlError
from pyml.config import Settings
from pyml.tracking.local_run import has_arrived, list_records, locked
from pyml.tracking.upload import Upload

log = logging.getLogger(__name__)

SYNC_SECONDS = 3600  # time limit for the upload of one record, if the server answers


def sync_records(chosen: Sequence[Path], settings: Settings) -> int:
    """Upload the chosen records again, or all records that have not arrived. Give the number of arrived records.

    A record has arrived if its history, its files and every byte of its artifacts were read back from the server.
    Raises PymlError if a record has not arrived, after the upload of the others; and at the start without a token.
    """
    records = [_as_record(path) for path in chosen] or [
        path for path in list_records(settings.record.absolute()) if not has_arrived(path)
    ]
    if records and not _has_token(settings):
        raise PymlError(
            f"there is no W&B token, so the recorded runs ({len(records)}) are not uploaded; set WANDB_API_KEY and run "
            "pyml sync again"
        )
    problems: list[str] = []
    arrived = 0
    for number, directory in enumerate(records, 1):
        with locked(directory) as lock:
            if lock is None:
                log.info("%s is skipped: another process records or uploads it", directory.name)
                continue
            log.info("%d of %d: uploading %s", number, len(records), directory.name)
            problem = _upload(directory, settings, lock)
        if problem is None:
            arrived += 1
        else:
            log.warning("%s has not arrived: %s", directory.name, problem)
            problems.append(directory.name)
    if problems:
        raise PymlError(
            f"{len(problems)} of {len(records)} runs have not arrived: {', '.join(problems)}; their records are kept"
        )
    return arrived


def _has_token(settings: Settings) -> bool:
    """Tell whether the settings or ~/.netrc hold a token for the uploading process."""
    import requests.utils
    import wandb

    return settings.wandb_api_key is not None or bool(requests.utils.get_netrc_auth(wandb.setup().settings.base_url))


def _upload(directory: Path, settings: Settings, lock: int) -> str | None:
    upload = Upload(directory, settings, lock, live=False)
    try:
        problem = upload.wait(SYNC_SECONDS)
    finally:
        upload.end()
    if problem is None:
        log.info("arrived completely: %s", upload.url)
    return problem


def _as_record(path: Path) -> Path:
    directory = path.absolute()
    if not list(directory.glob("run-*.wandb")):
        raise PymlError(f"{path} is no W&B record; a record holds a file run-<id>.wandb")
    return directory
