"""Renewing the leases of the batches in hand, from a thread of its own, at a third of their length."""

import logging
import threading
from types import TracebackType

import sqlalchemy as sa

from pypredict import store
from pypredict.listen import OUTAGE
from pypredict.store import Batch

log = logging.getLogger(__name__)


class Leases:
    """The batches that this worker holds. A context manager: the thread lives inside."""

    def __init__(self, engine: sa.Engine, lease_seconds: float) -> None:
        self._engine = engine
        self._seconds = lease_seconds
        self._held: set[Batch] = set()
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
        """Stop renewing; what is still held expires."""
        self._end.set()
        self._thread.join()

    def add(self, batch: Batch) -> None:
        """Keep this batch's lease alive."""
        with self._lock:
            self._held.add(batch)

    def drop(self, batch: Batch) -> None:
        """Let it be: finished, released or lost."""
        with self._lock:
            self._held.discard(batch)

    def _renew_until_end(self) -> None:
        while not self._end.wait(self._seconds / 3):
            with self._lock:
                held = list(self._held)
            try:
                if held:
                    with self._engine.begin() as connection:
                        for batch in held:
                            store.renew_lease(connection, batch, self._seconds)
            except OUTAGE as error:
                log.warning("leases could not be renewed: %s", " ".join(str(error.args[0]).split()))
