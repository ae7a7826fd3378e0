"""The training's record at Weights & Biases: config, curves, test figures, pictures, files, the bundle as an artifact.

The trainer only writes to its disk. With a token a second process uploads the record while it grows (`upload`); without
one, or where that fails, `pyml sync` uploads it later. So a record never costs a training: whatever W&B does, it leaves
one line in the log, and seconds at the end. `TrackedRun.directory` is relative to the record directory, which is one
volume: the artifact's bytes lie in it beside the run. docs/decisions/tracking.md says why.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import JsonValue

from bundle.manifest import Manifest, Metrics, TrackedRun
from bundle.messages import one_line
from pyml.config import Settings
from pyml.tracking.artifacts import RECORDED_FILES, log_artifact, log_files, log_pictures
from pyml.tracking.local_run import lock_record, sdk_environment
from pyml.tracking.upload import Upload

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)
T = TypeVar("T")

URL_SECONDS = 3  # how long publishing waits for the run's address
UPLOAD_SECONDS, UPLOAD_BYTES_PER_SECOND = 30, 1_000_000  # how long a server that answers may take at the end


class Tracker:
    """One run's record. No method raises; after the first failure the others do nothing."""

    def __init__(
        self,
        run: Any,
        record: TrackedRun,
        upload: Upload | None = None,
        place: Path | None = None,
        lock: int | None = None,
    ) -> None:
        """run: the wandb.Run, or None when nothing is recorded; place: the record's directory, lock is held on it."""
        self._run, self._record, self._upload, self._place, self._lock = run, record, upload, place, lock
        self._healthy, self._told = run is not None, False
        self._bytes = 0  # of the bundle, which bounds how long its upload is waited for

    @property
    def record(self) -> TrackedRun:
        """Where the record lies; with its address as soon as the server has told it."""
        url = self._upload.wait_for_url(URL_SECONDS) if self._upload else None
        return self._record.model_copy(update={"url": url})

    def callbacks(self) -> list["keras.callbacks.Callback"]:
        """Give the callbacks that record each epoch's figures."""
        curves = self._try("recording curves", self._curves)
        return [curves] if curves else []

    def log_metrics(self, metrics: Metrics, best_epoch: int) -> None:
        """Put the figures on the test set into the run's summary."""
        figures = metrics.model_dump(exclude={"per_class", "confusion"}, exclude_none=True)
        summary = {"best_epoch": best_epoch, **{f"test/{name}": value for name, value in figures.items()}}
        self._try("recording metrics", lambda: self._run.summary.update(summary))

    def log_bundle(self, path: Path, manifest: Manifest) -> None:
        """Record a published bundle: the model as a version of its artifact; files, pictures, tables."""
        self._bytes = sum(entry.size for name, entry in manifest.files.items() if name in RECORDED_FILES)
        self._try("recording the bundle", lambda: log_artifact(self._run, path, manifest))
        self._try("recording files", lambda: log_files(self._run, path))
        self._try("recording pictures", lambda: log_pictures(self._run, path, manifest))

    def finish(self, exit_code: int) -> None:
        """Close the record, wait within bounds until it is uploaded, and say where it is."""
        if self._run is None:
            return
        self._healthy = True  # a run that failed to log can still be closed
        try:
            self._try("closing the record", lambda: self._close(exit_code))
            if self._upload:
                self._upload.close()
                self._say_what_came_of_it(self._upload.wait(UPLOAD_SECONDS + self._bytes / UPLOAD_BYTES_PER_SECOND))
            elif self._record.mode == "offline" and not self._told:
                log.info("W&B: offline, the run lies in %s; upload it with: pyml sync", self._place)
        finally:
            self._end_upload()
            if self._lock is not None:
                os.close(self._lock)
            self._run, self._lock, self._healthy = None, None, False

    def _look_after_upload(self) -> None:
        problem = self._upload.failed_early() if self._upload else None
        if problem:
            self._say_what_came_of_it(problem)
            self._end_upload()

    def _say_what_came_of_it(self, problem: str | None) -> None:
        if problem:
            self._tell("W&B: not uploaded, %s; the run lies in %s, upload it with: pyml sync", problem, self._place)
        elif self._upload:
            log.info("W&B: %s", self._upload.url)

    def _end_upload(self) -> None:
        if self._upload:
            self._upload.end()
        self._upload = None

    def _close(self, exit_code: int) -> None:
        import wandb

        try:
            self._run.finish(exit_code=exit_code)
        finally:
            wandb.teardown(exit_code)  # only now is the file complete, and a dead service forgotten

    def _curves(self) -> "keras.callbacks.Callback":
        from wandb.integration.keras import WandbMetricsLogger

        tracker = self

        class Curves(WandbMetricsLogger):
            def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
                tracker._try("recording an epoch", lambda: super(Curves, self).on_epoch_end(epoch, logs))
                tracker._look_after_upload()

        return Curves()

    def _try(self, what: str, call: Callable[[], T]) -> T | None:
        if not self._healthy:
            return None
        try:
            return call()
        except Exception as error:  # the SDK raises what its service process raises
            self._healthy = False
            self._tell(
                "W&B: %s failed (%s); training goes on without it, what was recorded lies in %s",
                *(what, one_line(error), self._place),
            )
            return None

    def _tell(self, message: str, *arguments: object) -> None:
        """Say the one line about what went wrong."""
        if not self._told:
            log.warning(message, *arguments)
        self._told = True


@contextmanager
def tracking(name: str, config: dict[str, JsonValue], commit: str | None, settings: Settings) -> Iterator[Tracker]:
    """Record what happens in the block as the run `name`; a block that raises leaves a failed run."""
    tracker = start_tracker(name, config, commit, settings)
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish(exit_code=0)


def start_tracker(name: str, config: dict[str, JsonValue], commit: str | None, settings: Settings) -> Tracker:
    """Open the record, and with a token start its upload; nothing where WANDB_MODE=disabled."""
    if settings.wandb_mode == "disabled":
        return Tracker(None, TrackedRun(mode="disabled"))
    try:
        return _open_record(name, config, commit, settings)
    except Exception as error:
        log.warning("W&B: no record (%s: %s); training goes on", type(error).__name__, one_line(error))
        return Tracker(None, TrackedRun(mode="disabled"))


def _open_record(name: str, config: dict[str, JsonValue], commit: str | None, settings: Settings) -> Tracker:
    root = settings.record.absolute()
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):
        raise PermissionError(f"{root} cannot be written")  # the SDK would silently record into /tmp
    os.environ.update(sdk_environment(root))
    os.environ["WANDB_SILENT"] = "true"  # the SDK speaks before it has seen the settings below
    import wandb

    run = wandb.init(
        project=settings.wandb_project,
        entity=settings.wandb_entity,
        group=settings.wandb_group,
        name=name,
        config=config,
        settings=wandb.Settings(
            mode="offline",
            root_dir=str(root),
            silent=True,
            console="off",
            git_commit=commit,
            git_root=str(Path(__file__).parent),
            x_transaction_log_flush_interval=1,  # a killed trainer loses a second of its record, not fifteen
        ),
    )
    directory = Path(run.dir).parent
    lock = lock_record(directory)
    online = settings.wandb_mode == "online" and settings.wandb_api_key is not None
    upload = Upload(directory, settings, lock, live=True) if online else None
    record = TrackedRun(mode="online" if online else "offline", id=run.id, directory=str(directory.relative_to(root)))
    return Tracker(run, record, upload, directory, lock)
