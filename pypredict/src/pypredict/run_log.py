"""What the log says of a run: what serves at the start, at most one line of counts a minute, and the total.

A line for each chunk has the level DEBUG: `pypredict run --verbose` shows it.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa

from bundle.terminal import format_rate, log_fields
from pypredict import jobs, registry
from pypredict.database import OUTAGE
from pypredict.jobs import Job

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0  # at most one line of counts in this time


@dataclass(frozen=True)
class Counts:
    """What a run has done: inputs predicted, inputs refused, and jobs."""

    inputs: int = 0
    refused: int = 0
    jobs: int = 0

    def since(self, before: "Counts") -> "Counts":
        """Give what was done after other counts."""
        return Counts(self.inputs - before.inputs, self.refused - before.refused, self.jobs - before.jobs)


class RunLog:
    """Counts the jobs of one run. The thread that writes outcomes adds, the worker's loop writes the lines."""

    def __init__(self, engine: sa.Engine) -> None:
        self.counts = Counts()
        self._engine = engine
        self._began = self._since = time.monotonic()
        self._written = Counts()  # the counts at the last line
        self._quiet = True  # the last minute had no line

    def add(self, job: Job, predicted: int, refused: int) -> None:
        """Count a job whose outcomes are stored."""
        had = self.counts
        self.counts = Counts(had.inputs + predicted, had.refused + refused, had.jobs + 1)
        log.debug(
            "model %d, chunk %d: %d predicted, %d refused",
            job.model_id,
            job.chunk_id,
            predicted,
            refused,
            extra=log_fields(model=job.model_id, chunk=job.chunk_id, inputs=predicted, refused=refused),
        )

    def write_line(self, *, idle: bool) -> None:
        """Write a line of counts if a minute has passed, or at once when the first work after a quiet minute is done.

        Nothing is written for a minute in which nothing was done and nothing waits.
        """
        now, counts = time.monotonic(), self.counts  # other counts come while the database is asked
        done = counts.since(self._written)
        if now < self._since + LINE_SECONDS and not (idle and self._quiet and done.jobs):
            return
        waiting = None
        with suppress(*OUTAGE), self._engine.begin() as connection:
            waiting = jobs.count_waiting(connection)
        self._quiet = not (done.jobs or waiting)
        if not self._quiet:
            said = "" if waiting is None else f"; {waiting} wait"
            _write(done, now - self._since, said, waiting=waiting)
        self._since, self._written = now, counts

    def write_total(self, nothing: str) -> None:
        """Write the counts of the whole run. nothing: what to add when no job was done."""
        _write(self.counts, time.monotonic() - self._began, "" if self.counts.jobs else nothing)


def log_start(engine: sa.Engine, worker: str) -> None:
    """Log that a worker starts, and which models serve."""
    with engine.begin() as connection:
        serving = [model for model in registry.list_models(connection) if model.state == "serving"]
    log.info("worker %s starts%s", worker, "" if serving else "; no model serves yet", extra=log_fields(worker=worker))
    for model in serving:
        extra = log_fields(dataset=model.dataset, model=model.model_id, bundle=model.bundle_id)
        log.info("model %d (%s) serves %s", model.model_id, model.bundle_id, model.dataset, extra=extra)


def _write(done: Counts, seconds: float, said: str, **more: int | None) -> None:
    rate = done.inputs / max(seconds, 0.001)
    log.info(
        "%d inputs predicted, %d refused, in %d job%s and %.0f s%s%s",
        done.inputs,
        done.refused,
        done.jobs,
        "" if done.jobs == 1 else "s",
        seconds,
        f" ({format_rate(rate)})" if done.inputs else "",
        said,
        extra=log_fields(
            inputs=done.inputs,
            refused=done.refused,
            jobs=done.jobs,
            seconds=round(seconds, 1),
            inputs_per_second=round(rate, 1),
            **more,
        ),
    )
