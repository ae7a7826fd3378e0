"""The training's record at Weights & Biases: config, curves, test figures, the bundle as an artifact.

Without a token the record is written offline below the record directory, to be uploaded later; with one it is live.
A record never costs a training: whatever W&B does, it leaves one line in the log. `TrackedRun.directory` is relative
to the record directory, which is one volume: the artifact's bytes lie in it beside the run.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import JsonValue

from bundle.manifest import MANIFEST_FILE, MODEL_FILE, Metrics, TrackedRun
from pyml import one_line
from pyml.config import Settings

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)
T = TypeVar("T")

INIT_SECONDS, FINISH_SECONDS = 6, 15  # how long a server may keep a training waiting, at its start and at its end


class Tracker:
    """One run's record. No method raises; after the first failure the others do nothing."""

    def __init__(self, run: Any, record: TrackedRun) -> None:
        """run: the wandb.Run, or None when nothing is recorded."""
        self._run = run
        self._healthy = run is not None
        self.record = record

    def callbacks(self) -> list["keras.callbacks.Callback"]:
        """Give the callbacks that record each epoch's figures."""
        curves = self._try("recording curves", self._curves)
        return [curves] if curves else []

    def log_metrics(self, metrics: Metrics, best_epoch: int) -> None:
        """Put the figures on the test set into the run's summary."""
        figures = {f"test/{name}": value for name, value in metrics.model_dump().items()}
        self._try("recording metrics", lambda: self._run.summary.update({**figures, "best_epoch": best_epoch}))

    def log_bundle(self, path: Path, name: str) -> None:
        """Record model.h5 and manifest.json as a version of the model artifact of that name."""

        def log_artifact() -> None:
            import wandb

            artifact = wandb.Artifact(name, type="model", metadata={"bundle_id": path.name})
            for file in (MODEL_FILE, MANIFEST_FILE):
                artifact.add_file(str(path / file))
            self._run.log_artifact(artifact)

        self._try("recording the bundle", log_artifact)

    def finish(self, exit_code: int) -> None:
        """Close the record. Only after the teardown is the file complete."""
        if self._run is None:
            return

        def close() -> None:
            import wandb

            self._run.finish(exit_code=exit_code)
            wandb.teardown(exit_code)

        self._healthy = True  # a run that failed to log can still be closed
        self._try("closing the record", close)
        self._run, self._healthy = None, False

    def _curves(self) -> "keras.callbacks.Callback":
        from wandb.integration.keras import WandbMetricsLogger

        tracker = self

        class Curves(WandbMetricsLogger):
            def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
                tracker._try("recording an epoch", lambda: super(Curves, self).on_epoch_end(epoch, logs))

        return Curves()

    def _try(self, what: str, call: Callable[[], T]) -> T | None:
        if not self._healthy:
            return None
        try:
            return call()
        except Exception as error:  # the SDK raises what its network and its service process raise
            self._healthy = False
            log.warning("W&B: %s failed (%s); training goes on without it", what, one_line(error))
            return None


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
    """Open the record: online with a token, else, or where that fails, offline; nothing where WANDB_MODE=disabled."""
    if settings.wandb_mode == "disabled":
        return Tracker(None, TrackedRun(mode="disabled"))
    online = settings.wandb_mode == "online" and settings.wandb_api_key is not None
    modes: tuple[Literal["online", "offline"], ...] = ("online", "offline") if online else ("offline",)
    for mode in modes:
        try:
            return _open_record(name, config, commit, settings, mode)
        except Exception as error:
            log.warning("W&B: no %s record (%s: %s); training goes on", mode, type(error).__name__, one_line(error))
    return Tracker(None, TrackedRun(mode="disabled"))


def _open_record(
    name: str,
    config: dict[str, JsonValue],
    commit: str | None,
    settings: Settings,
    mode: Literal["online", "offline"],
) -> Tracker:
    root = settings.record.absolute()
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):
        raise PermissionError(f"{root} cannot be written")  # the SDK would silently record into /tmp
    for kind in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):  # the SDK takes these from the environment only
        os.environ[f"WANDB_{kind}_DIR"] = str(root / kind.lower())
    os.environ["WANDB_SILENT"] = "true"  # the login speaks before it has seen the settings below
    import wandb

    run = wandb.init(
        project=settings.wandb_project,
        entity=settings.wandb_entity,
        name=name,
        config=config,
        settings=wandb.Settings(
            mode=mode,
            root_dir=str(root),
            silent=True,
            console="off",
            git_commit=commit,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            x_disable_viewer=True,  # one request less to wait for
            x_transaction_log_flush_interval=1,  # a killed trainer loses a second of its record, not fifteen
        ),
    )
    directory = Path(run.dir).parent
    log.info("W&B: recording %s in %s", mode, directory)
    url = run.url if mode == "online" else None
    record = TrackedRun(mode=mode, id=run.id, url=url, directory=str(directory.relative_to(root)))
    return Tracker(run, record)
