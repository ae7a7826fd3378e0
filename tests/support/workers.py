"""A worker in the test's own process, with a Python function as its model, and helpers to read its results."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from rich.console import Console

from bundle import BundleError
from bundle.verify import Bundle
from pypredict import store
from pypredict.chunk import cut
from pypredict.listen import Stop, somebody_listens
from pypredict.models import Models
from pypredict.worker import Worker
from support.bundles import fake_predict


def worker_for(engine: sa.Engine, models: Path, predict=fake_predict, load=None, **options) -> Worker:
    settings = {"poll_seconds": 0.05, "lease_seconds": 60} | options
    return Worker(engine, models, Models(models, load or (lambda bundle: predict)), "tester", **settings)


def load_predict_of(dataset: str):
    """Make a loader that loads the models of this dataset and refuses all others."""

    def load(bundle: Bundle):
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


def rows(engine: sa.Engine, statement: str) -> list[tuple]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def load(engine: sa.Engine, bundle: Bundle, arrays: np.ndarray) -> None:
    with engine.begin() as connection:
        for chunk in cut(
            arrays,
            None,
            classes=None,
            dataset=bundle.manifest.dataset,
            prep_sha256=bundle.manifest.prep_sha256,
            source="a test",
        ):
            store.load_chunk(connection, chunk)


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until `true` returns True; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline


def listens(engine: sa.Engine) -> bool:
    with engine.begin() as connection:
        return somebody_listens(connection)


@contextmanager
def daemon(engine: sa.Engine, models: Path, predict=fake_predict, **options) -> Iterator[None]:
    """Run a worker in a thread until the end of the block; raise the worker's error, if any."""
    stop = Stop()
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(worker_for(engine, models, predict, stop=stop, **options).run, until_empty=False)
        try:
            yield
        finally:
            stop.set()
            run.result(30)
