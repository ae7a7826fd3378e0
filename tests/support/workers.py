"""A worker in the test's own process, with a Python function as its model, and helpers to read its results."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import sqlalchemy as sa
from rich.console import Console

from bundle import BundleError
from bundle.verify import Bundle
from pypredict import listen, store
from pypredict.chunk import cut
from pypredict.listen import Stop
from pypredict.models import Models, Predict
from pypredict.source import Preparation
from pypredict.worker import Worker
from support.bundles import fake_predict

Load = Callable[[Bundle], Predict]


class WorkerOptions(TypedDict, total=False):
    """The settings of a worker that a test may change."""

    lease_seconds: float
    poll_seconds: float
    health_file: Path | None
    stop: Stop


def worker_for(
    engine: sa.Engine,
    models: Path,
    predict: Predict = fake_predict,
    load: Load | None = None,
    **options: Unpack[WorkerOptions],
) -> Worker:
    settings: WorkerOptions = {"poll_seconds": 0.05, "lease_seconds": 60}
    settings.update(options)
    return Worker(engine, models, Models(models, load or (lambda bundle: predict)), "tester", **settings)


def load_predict_of(dataset: str) -> Load:
    """Make a loader that loads the models of this dataset and refuses all others."""

    def load(bundle: Bundle) -> Predict:
        if bundle.manifest.dataset != dataset:
            raise BundleError(f"{bundle.manifest.dataset} does not load")
        return fake_predict

    return load


def console(width: int) -> Console:
    """Make a console like that of the command line, with this width in characters."""
    return Console(width=width, markup=False, emoji=False)


def scalar(engine: sa.Engine, statement: str) -> object:
    with engine.connect() as connection:
        return connection.execute(sa.text(statement)).scalar()


def rows(engine: sa.Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def load(engine: sa.Engine, bundle: Bundle, arrays: np.ndarray) -> None:
    with engine.begin() as connection:
        for chunk in cut(
            arrays,
            None,
            classes=None,
            **Preparation(bundle.manifest).identity,
            source="a test",
        ):
            chunk_id, _ = store.load_chunk(connection, chunk)
    listen.notify(engine, chunk_id)


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until `true` returns True; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # what is waited for needs the processor, too


def overlap(engine: sa.Engine, first: Callable[[sa.Connection], Any], second: Callable[[sa.Connection], Any]) -> Any:
    """Run two transactions: the second one begins before the first one commits. Return the result of the second.

    The first commits when the second waits for one of its locks, or has ended without waiting.
    """
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    def run() -> Any:
        with engine.begin() as connection:
            return second(connection)

    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as connection:
            first(connection)
            result = thread.submit(run)
            until(lambda: result.done() or scalar(engine, waiting) == 1)
        return result.result(30)


def listens(engine: sa.Engine) -> bool:
    with engine.begin() as connection:
        return listen.somebody_listens(connection)


@contextmanager
def daemon(
    engine: sa.Engine, models: Path, predict: Predict = fake_predict, **options: Unpack[WorkerOptions]
) -> Iterator[None]:
    """Run a worker in a thread until the end of the block; raise the worker's error, if any."""
    stop = Stop()
    with ThreadPoolExecutor(1) as thread:
        options["stop"] = stop
        run = thread.submit(worker_for(engine, models, predict, **options).run, until_empty=False)
        try:
            yield
        finally:
            stop.set()
            run.result(30)
