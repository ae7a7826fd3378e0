"""Renew the leases of the jobs that this worker holds, in a separate thread, after each third of the lease."""

import logging
import threading
from types import TracebackType

import sqlalchemy as sa

from pypredict import jobs
from pypredict.database import OUTAGE, reason
from pypredict.jobs import Job

log = logging.getLogger(__name__)


class Leases:
    """The jobs that this worker holds. A context manager: the thread runs inside it."""

    def __init__(self, engine: sa.Engine, lease_seconds: float) -> None:
        self._engine = engine
        self._seconds = lease_seconds
        self._held: set[Job] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_end, name="leases", daemon=True)

    def __enter__(self) -> "Leases":
        """Start renewing."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop renewing; the leases that are still held expire."""
        self._end.set()
        self._thread.join()

    def add(self, job: Job) -> None:
        """Renew this job's lease from now on."""
        with self._lock:
            self._held.add(job)

    def drop(self, job: Job) -> None:
        """Stop renewing this job's lease, because the job is finished, released or lost."""
        with self._lock:
            self._held.discard(job)

    def _renew_until_end(self) -> None:
        while not self._end.wait(self._seconds / 3):
            with self._lock:
                held = list(self._held)
            try:
                if held:
                    with self._engine.begin() as connection:
                        for job in held:
                            jobs.renew_lease(connection, job, self._seconds)
            except (*OUTAGE, sa.exc.SQLAlchemyError) as error:  # this thread must not end
                log.warning("leases could not be renewed: %s", reason(error))
