"""Show the progress of a training: a bar on a terminal, else a log line for each epoch, nothing if quiet."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bundle.terminal import make_console

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


@contextmanager
def epoch_progress(epochs: int) -> Iterator[list["keras.callbacks.Callback"]]:
    """Give the callbacks for `fit`. At the end the bar is removed, also if fit is interrupted."""
    console = make_console(stderr=True)
    if not log.isEnabledFor(logging.INFO):
        yield []
    elif console.is_terminal:
        with _bar(epochs, console) as callback:
            yield [callback]
    else:
        yield [_lines(epochs)]


@contextmanager
def _bar(epochs: int, console: Any) -> Iterator["keras.callbacks.Callback"]:
    import keras
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = ("epoch", MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=epochs)

        def show(_epoch: int, logs: dict[str, float]) -> None:
            progress.update(task, advance=1, description=_format_logs(logs))

        yield keras.callbacks.LambdaCallback(on_epoch_end=show)


def _lines(epochs: int) -> "keras.callbacks.Callback":
    import keras

    started = time.perf_counter()

    def show(epoch: int, logs: dict[str, float]) -> None:
        log.info("epoch %d/%d  %s  %.1f s", epoch + 1, epochs, _format_logs(logs), time.perf_counter() - started)

    return keras.callbacks.LambdaCallback(on_epoch_end=show)


def _format_logs(logs: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
