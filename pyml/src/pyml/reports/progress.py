"""Show the progress of a training: a bar on a terminal, else a log line for each epoch, nothing if quiet."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bundle.terminal import progress_bar

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


@contextmanager
def epoch_progress(epochs: int) -> Iterator[list["keras.callbacks.Callback"]]:
    """Give the callbacks for `fit`. At the end the bar is removed, also if fit is interrupted."""
    if not log.isEnabledFor(logging.INFO):
        yield []
    elif sys.stderr.isatty():
        with _bar(epochs) as callback:
            yield [callback]
    else:
        yield [_lines(epochs)]


@contextmanager
def _bar(epochs: int) -> Iterator["keras.callbacks.Callback"]:
    import keras
    from rich.progress import TextColumn
    from rich.table import Column

    metrics = TextColumn("{task.fields[metrics]}", table_column=Column(overflow="fold"))  # on more lines if needed
    with progress_bar(metrics) as progress:
        task = progress.add_task("epoch", total=epochs, metrics="")

        def show(_epoch: int, logs: dict[str, float]) -> None:
            progress.update(task, advance=1, metrics=_format_logs(logs))

        yield keras.callbacks.LambdaCallback(on_epoch_end=show)


def _lines(epochs: int) -> "keras.callbacks.Callback":
    import keras

    started = time.perf_counter()

    def show(epoch: int, logs: dict[str, float]) -> None:
        log.info("epoch %d/%d  %s  %.1f s", epoch + 1, epochs, _format_logs(logs), time.perf_counter() - started)

    return keras.callbacks.LambdaCallback(on_epoch_end=show)


def _format_logs(logs: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
