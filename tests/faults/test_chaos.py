"""Random faults together, forged bundles among the good one, and a hostile reader: at the end, all outcomes are exact.

CHAOS_SECONDS: the duration (default: 20). CHAOS_SEED: repeats a run.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg2
import pytest
from faults.conftest import N, OwnServer, make_setup
from support.fault_setup import FaultSetup
from support.forged_bundles import FORGED, publish_forged
from support.hostile_reader import HostileReader

from pypredict import database
from pypredict.database import OUTAGE

SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))
WORKERS = 3
INPUTS_PER_CHUNK = 100


WEIGHTS = {"kill": 5, "freeze": 4, "stop": 3, "terminate": 5, "crash": 1, "read_only": 2, "forge": 2}


class Faults:
    """Workers, and the faults that can happen to them: the methods that WEIGHTS names, with their frequency."""

    def __init__(self, own: OwnServer, setup: FaultSetup, chance: random.Random) -> None:
        self._own, self._setup, self._chance = own, setup, chance
        self._forged = list(FORGED)
        self.workers = [self._start() for _ in range(WORKERS)]
        self.counts = dict.fromkeys(WEIGHTS, 0)

    def happen(self) -> None:
        """Let one fault happen, and start the workers that it has ended again."""
        (name,) = self._chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
        self.counts[name] += 1
        getattr(self, name)()
        time.sleep(self._chance.uniform(0, 0.3))
        self.workers = [worker if worker.poll() is None else self._start() for worker in self.workers]

    def kill(self) -> None:
        self._chance.choice(self.workers).kill()

    def stop(self) -> None:
        self._chance.choice(self.workers).send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        worker = self._chance.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.1, 1.6))  # part of the test: shorter and longer than the lease
        worker.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pypredict'")

    def crash(self) -> None:
        self._own.crash()
        self._own.start()

    def read_only(self) -> None:
        """Let the database be read-only for a while: a setting for new sessions, so the old ones are ended."""
        for value in ("on", "off"):
            self._execute(f"ALTER DATABASE ml SET default_transaction_read_only = {value}")
            self.terminate()
            time.sleep(self._chance.uniform(0, 0.5))

    def forge(self) -> None:
        """Publish a forged bundle. It is forged aside: the workers must not see the good bundle that it was."""
        if self._forged:
            name, aside = self._forged.pop(), self._setup.models.with_name("aside")
            publish_forged(aside, name)
            for part in (f"bundles/{name}", f"current/{name}.json"):
                (aside / part).rename(self._setup.models / part)

    def remove_forged(self) -> None:
        for name in FORGED.keys() - self._forged:
            shutil.rmtree(self._setup.models / "bundles" / name)
            (self._setup.models / "current" / f"{name}.json").unlink()

    def _start(self) -> subprocess.Popen[str]:
        return self._setup.start("--daemon", "--lease", "0.8", "--seconds", "0.01")

    def _execute(self, statement: str) -> None:
        with closing(psycopg2.connect(self._own.server.url())) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SET default_transaction_read_only = off")
            cursor.execute(statement)


@pytest.mark.timeout(SECONDS + 240)
def test_after_chaos_every_outcome_exists_exactly_once(own_server: OwnServer, tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", time.time_ns() % 1_000_000))
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={SECONDS:g}")
    chance = random.Random(seed)
    url = own_server.server.url("pypredict")
    engine = database.connect(url, wait_seconds=10)
    setup = make_setup(url, engine, tmp_path / "models")
    faults = Faults(own_server, setup, chance)
    reader = HostileReader(own_server.server.url("reader"), seed)
    loaded = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for _ in range(chance.randrange(4)):
            arrays = np.random.default_rng(loaded + seed).integers(0, 250, (INPUTS_PER_CHUNK, 4, 4, 1), np.uint8)
            try:
                setup.load(arrays)
            except OUTAGE:
                continue  # the server crashed or our backend was terminated: no row of the chunk is visible
            loaded += INPUTS_PER_CHUNK
        faults.happen()
    attacks = reader.stop()
    for worker in faults.workers:
        worker.send_signal(signal.SIGTERM)
    for worker in faults.workers:
        worker.communicate(timeout=60)
    faults.remove_forged()  # a run until empty ends with an error while there are any
    setup.finish(seconds=120)
    print(f"{loaded} inputs, {faults.counts}, {attacks} attacks of a reader")
    assert attacks > SECONDS
    stored = setup.rows("SELECT count(*) FROM ml.input")[0][0]
    # If the server crashes during a COMMIT, the loader gets an error, but the chunk may be stored: whole, not in part.
    assert stored - N >= loaded
    assert (stored - N) % INPUTS_PER_CHUNK == 0
    setup.assert_exact(stored)
    assert setup.rows("SELECT count(*) FROM ml.prediction_error WHERE reason <> 'crash'") == [(0,)]
    setup.end()
    engine.dispose()
