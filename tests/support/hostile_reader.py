"""Somebody with the password of `reader` who tries to stop the others, in a thread."""

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg2

ATTACKS = (
    "LOCK TABLE ml.job, ml.chunk, ml.model, ml.prediction IN ACCESS SHARE MODE",
    "LISTEN ml_chunk; COMMIT; BEGIN; SELECT count(*) FROM ml.outcome",
    "SELECT count(pg_notify('ml_chunk', repeat('x', 7000) || n)) FROM generate_series(1, 100) n; COMMIT",
    "SET application_name = 'pypredict daemon'",
    "SELECT pg_advisory_lock(1)",
    "SELECT model_id FROM ml.model FOR UPDATE",
    "CREATE TEMP TABLE mine AS SELECT n FROM generate_series(1, 1e6) n",
    "UPDATE ml.job SET state = 'pending'",
)


class HostileReader:
    """Attacks with as many open connections as the server gives, until `stop`."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._chance, self._end = url, random.Random(seed), threading.Event()
        self._held: list[Any] = []
        self._attacks: Future[int] = ThreadPoolExecutor(1, "reader").submit(self._attack)

    def stop(self) -> int:
        """End all connections; return the number of attacks."""
        self._end.set()
        return self._attacks.result()

    def _attack(self) -> int:
        attacks = 0
        while not self._end.wait(0.02):
            attacks += 1
            try:
                self._held.append(psycopg2.connect(self._url, connect_timeout=5))
                self._held[-1].cursor().execute("SET default_transaction_read_only = off; COMMIT")
                self._held[-1].cursor().execute(self._chance.choice(ATTACKS))
            except psycopg2.Error:  # denied, no connection left, or the server is away
                if self._held and self._chance.random() < 0.2:
                    self._held.pop(self._chance.randrange(len(self._held))).close()
        for connection in self._held:
            connection.close()
        return attacks
