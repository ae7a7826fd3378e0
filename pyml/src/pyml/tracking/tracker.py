"""Record a training for Weights & Biases: configuration, learning curves, test metrics, plots, files, the artifact.

The trainer writes the record only to its disk. With a token, a second process uploads the record during the training
(`upload`). Without a token, or if the upload fails, `pyml sync` uploads it later. So no fault of W&B stops a training:
it adds one line to the log and a few seconds at the end. `TrackedRun.directory` is relative to the record directory,
which is one volume and also holds the artifact's bytes. docs/decisions/tracking.md gives the reasons.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import JsonValue

from bundle.manifest import Manifest, Metrics, TrackedRun
from bundle.messages import one_line
from bundle.verify import Bundle
from pyml.config import Settings
from pyml.tracking.artifacts import RECORDED_FILES, log_artifact, log_files, log_plots
from pyml.tracking.charts import log_charts
from pyml.tracking.lineage import use_dataset
from pyml.tracking.local_run import lock_record, sdk_environment
from pyml.tracking.shown_samples import show_samples
from pyml.tracking.upload import Upload

if TYPE_CHECKING:
    import keras

    from pyml.datasets.dataset import Dataset

log = logging.getLogger(__name__)
T = TypeVar("T")

URL_SECONDS = 3  # the longest wait for the run's URL before a bundle is published
# The time limit of the upload at the end of a training, if the server answers.
UPLOAD_SECONDS, UPLOAD_BYTES_PER_SECOND = 30, 1_000_000


class Tracker:
    """Write the record of one run. No method raises an error. After the first failure the other methods do nothing."""

    def __init__(
        self,
        run: Any,
        record: TrackedRun,
        upload: Upload | None = None,
        directory: Path | None = None,
        lock: int | None = None,
        *,
        track_samples: bool = False,
    ) -> None:
        """run: the wandb.Run; None if nothing is recorded. directory: of the record. lock: the held lock on it.

        track_samples: whether some samples of the test set are recorded.
        """
        self._run, self._record, self._upload, self._directory, self._lock = run, record, upload, directory, lock
        self._track_samples = track_samples
        self._healthy, self._warned = run is not None, False
        self._bytes = 0  # size of the bundle; the time limit of the upload depends on it

    @property
    def record(self) -> TrackedRun:
        """The record's directory, and the run's URL if the server has given it."""
        url = self._upload.wait_for_url(URL_SECONDS) if self._upload else None
        return self._record.model_copy(update={"url": url})

    def callbacks(self) -> list["keras.callbacks.Callback"]:
        """Give the callbacks that record the metrics of each epoch."""
        curves = self._try("recording the learning curves", self._curves)
        return [curves] if curves else []

    def use_dataset(self, dataset: "Dataset") -> None:
        """Record the dataset as the input of the run, without its samples."""
        self._try("recording the dataset", lambda: use_dataset(self._run, dataset))

    def log_metrics(self, metrics: Metrics, best_epoch: int) -> None:
        """Write the metrics on the test set to the run's summary."""
        values = metrics.model_dump(exclude={"per_class", "confusion"}, exclude_none=True)
        summary = {"best_epoch": best_epoch} | {f"test/{name}": value for name, value in values.items()}
        self._try("recording metrics", lambda: self._run.summary.update(summary))

    def log_bundle(self, path: Path, manifest: Manifest) -> None:
        """Record a published bundle: the model as a version of its artifact; files, plots, charts, tables."""
        self._bytes = sum(entry.size for name, entry in manifest.files.items() if name in RECORDED_FILES)
        self._try("recording the bundle", lambda: log_artifact(self._run, path, manifest))
        self._try("recording files", lambda: log_files(self._run, path, manifest))
        self._try("recording plots", lambda: self._log_plots(path, manifest))
        self._try("recording charts", lambda: log_charts(self._run, path, manifest))

    def finish(self, exit_code: int) -> None:
        """Close the record, wait for its upload up to a time limit, and log its URL or directory."""
        if self._run is None:
            return
        self._healthy = True  # a run can be closed even if logging failed
        try:
            self._try("closing the record", lambda: self._close(exit_code))
            if self._upload:
                self._upload.close()
                self._log_upload(self._upload.wait(UPLOAD_SECONDS + self._bytes / UPLOAD_BYTES_PER_SECOND))
            elif self._record.mode == "offline" and not self._warned:
                log.info("W&B: offline, the run is in %s; upload it with: pyml sync", self._directory)
        finally:
            self._end_upload()
            if self._lock is not None:
                os.close(self._lock)
            self._run, self._lock, self._healthy = None, None, False

    def _log_plots(self, path: Path, manifest: Manifest) -> None:
        samples = show_samples(Bundle(path, manifest)) if self._track_samples else None
        log_plots(self._run, path, manifest, samples.first_rows if samples else ())
        if samples and samples.mistakes:
            self._run.log({"test/worst_mistakes": samples.mistakes})

    def _check_upload(self) -> None:
        problem = self._upload.failed_early() if self._upload else None
        if problem:
            self._log_upload(problem)
            self._end_upload()

    def _log_upload(self, problem: str | None) -> None:
        if problem:
            self._warn_once(
                "W&B: not uploaded, %s; the run is in %s, upload it with: pyml sync", problem, self._directory
            )
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
            wandb.teardown(exit_code)  # this completes the file, and forgets a service that died

    def _curves(self) -> "keras.callbacks.Callback":
        from wandb.integration.keras import WandbMetricsLogger

        tracker, defined = self, set[str]()

        class Curves(WandbMetricsLogger):
            def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
                for name in sorted((logs or {}).keys() - defined):
                    tracker._try("recording a metric", partial(define_metric, tracker._run, name))
                    defined.add(name)
                tracker._try("recording an epoch", lambda: super(Curves, self).on_epoch_end(epoch, logs))
                tracker._check_upload()

        return Curves()

    def _try(self, what: str, call: Callable[[], T]) -> T | None:
        if not self._healthy:
            return None
        try:
            return call()
        except Exception as error:  # the SDK raises the errors of its service process, which are of many kinds
            self._healthy = False
            self._warn_once(
                "W&B: %s failed (%s); the training continues without it, the record until now is in %s",
                what,
                one_line(error),
                self._directory,
            )
            return None

    def _warn_once(self, message: str, *arguments: object) -> None:
        """Log the first warning; ignore later ones."""
        if not self._warned:
            log.warning(message, *arguments)
        self._warned = True


def define_metric(run: Any, name: str) -> None:
    """Tell W&B which value of a metric of the epochs is the best: the lowest loss, else the highest value.

    The run's summary then has the best and the last value. This SDK has no other way to say which direction is better.
    """
    best = "min" if name.endswith("loss") else "max"
    run.define_metric(f"epoch/{name}", step_metric="epoch/epoch", summary=f"{best},last")


@contextmanager
def tracking(name: str, config: dict[str, JsonValue], commit: str | None, settings: Settings) -> Iterator[Tracker]:
    """Record the block as the run `name`. If the block raises an error, the run is recorded as failed."""
    tracker = start_tracker(name, config, commit, settings)
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish(exit_code=0)


def start_tracker(name: str, config: dict[str, JsonValue], commit: str | None, settings: Settings) -> Tracker:
    """Open the record, and with a token start its upload. With WANDB_MODE=disabled nothing is recorded."""
    if settings.wandb_mode == "disabled":
        return Tracker(None, TrackedRun(mode="disabled"))
    try:
        return _open_record(name, config, commit, settings)
    except Exception as error:
        log.warning("W&B: no record (%s: %s); the training continues", type(error).__name__, one_line(error))
        return Tracker(None, TrackedRun(mode="disabled"))


def _open_record(name: str, config: dict[str, JsonValue], commit: str | None, settings: Settings) -> Tracker:
    root = settings.record.absolute()
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):
        raise PermissionError(f"{root} cannot be written")  # the SDK would use /tmp without a message
    os.environ.update(sdk_environment(root))
    os.environ["WANDB_SILENT"] = "true"  # the SDK writes messages before it reads the settings below
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
            x_transaction_log_flush_interval=1,  # seconds; a killed trainer loses one second of its record, not fifteen
        ),
    )
    directory = Path(run.dir).parent
    lock = lock_record(directory)
    online = settings.wandb_mode == "online" and settings.wandb_api_key is not None
    upload = Upload(directory, settings, lock, live=True) if online else None
    record = TrackedRun(mode="online" if online else "offline", id=run.id, directory=str(directory.relative_to(root)))
    return Tracker(run, record, upload, directory, lock, track_samples=settings.track_samples)
