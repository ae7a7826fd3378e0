"""Crashed servers, lost networks, full disks. The numbers in the test names are those of the list of faults."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa
from conftest import REPO, Database
from faults.conftest import N, OwnServer, make_setup, start_server
from support.bundles import fake_predict
from support.fault_setup import FaultSetup, reach
from support.workers import until

import embedded
import postgres_programs
from pypredict import database, jobs, migrate, store
from pypredict.plan import Planner

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="SKIPPED, LOUDLY: needs root (a tmpfs, a network namespace)")


def arrays(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, (n, 4, 4, 1), np.uint8)


def test_13_predictions_are_exact_after_a_server_crash(own_server: OwnServer, tmp_path: Path) -> None:
    engine = database.connect(own_server.server.url("pypredict"), wait_seconds=10)
    setup = make_setup(own_server.server.url("pypredict"), engine, tmp_path / "models")
    for seed in range(30):
        setup.load(arrays(100, seed))
    workers = [setup.start("--daemon", "--seconds", "0.02") for _ in range(2)]
    until(lambda: setup.rows("SELECT count(*) FROM ml.job WHERE state = 'done'")[0][0] >= 5)
    own_server.crash()
    own_server.start()
    until(lambda: setup.rows("SELECT count(*) FROM ml.job WHERE state <> 'done'") == [(0,)])
    for worker in workers:
        worker.terminate()
        _, errors = worker.communicate(timeout=30)
        assert worker.returncode == 0, errors
    setup.assert_exact(N + 3000)
    setup.end()
    engine.dispose()


def test_13_a_claim_lost_in_a_server_crash_is_stored_once(tmp_path: Path) -> None:
    """A claim does not wait for the disk. After a crash two workers may hold the same attempt; the first one wins."""
    own_server = start_server(tmp_path / "state", wal_writer_delay="10s")
    engine = database.connect(own_server.server.url("pypredict"), wait_seconds=10)
    setup = make_setup(own_server.server.url("pypredict"), engine, tmp_path / "models")

    def claim() -> tuple[jobs.Job, store.Inputs]:
        with engine.begin() as connection:
            Planner().plan(connection)
        with engine.begin() as connection:
            job = jobs.claim_job(connection, [1], "worker", 60)
        assert job is not None
        with engine.begin() as connection:
            return job, store.read_inputs(connection, job)

    def finish(job: jobs.Job, inputs: store.Inputs) -> None:
        with engine.begin() as connection:
            jobs.finish_job(connection, job, inputs, fake_predict(inputs.arrays))

    try:
        for _ in range(3):
            first, inputs = claim()
            own_server.crash()
            own_server.start()
            if setup.rows("SELECT state FROM ml.job") == [("pending",)]:
                break
            with closing(psycopg2.connect(own_server.server.url())) as owner, owner, owner.cursor() as cursor:
                cursor.execute("DELETE FROM ml.job")  # the server wrote the claim to its disk just before the crash
        assert setup.rows("SELECT state, attempt FROM ml.job") == [("pending", 0)], "the crash did not lose the claim"
        second, again = claim()
        assert first.attempt == second.attempt
        finish(first, inputs)
        with pytest.raises(jobs.LeaseLostError):
            finish(second, again)
        setup.assert_exact(N)
    finally:
        engine.dispose()
        embedded.destroy(own_server.state)


def test_06_a_worker_frozen_in_its_commit_loses_its_job(setup: FaultSetup, db: Database, owner: sa.Engine) -> None:
    with owner.begin() as connection:  # a minute in production
        timeout = "SET idle_in_transaction_session_timeout = '1s'"
        connection.execute(sa.text(f'ALTER ROLE pypredict IN DATABASE "{db.name}" {timeout}'))
    sleeper = setup.start("--point", "fenced", "--lease", "0.5")
    reach(sleeper, "fenced")  # it locks the row that it has updated
    sleeper.send_signal(signal.SIGSTOP)  # also the thread that renews its lease
    setup.finish()
    setup.assert_exact(N)
    sleeper.send_signal(signal.SIGCONT)
    _, errors = sleeper.communicate("\n", timeout=60)
    assert sleeper.returncode == 0, errors
    setup.assert_exact(N)


@pytest.fixture
def far_network(tmp_path: Path) -> Iterator[tuple[str, OwnServer]]:
    """A network namespace as a second host, and a server that it reaches over a link that the test can cut."""
    name = f"far{os.getpid()}"
    here, there = "10.213.77.1", "10.213.77.2"
    try:
        for command in (
            f"ip netns add {name}",
            f"ip link add {name}a type veth peer name {name}b",
            f"ip link set {name}b netns {name}",
            f"ip addr add {here}/24 dev {name}a",
            f"ip link set {name}a up",
            f"ip netns exec {name} ip addr add {there}/24 dev {name}b",
            f"ip netns exec {name} ip link set {name}b up",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)
        hba = Path("/var/tmp") / f"{name}.hba"
        hba.write_text(f"host all all 127.0.0.1/32 scram-sha-256\nhost all all {there}/32 scram-sha-256\n")
        hba.chmod(0o644)
        server = start_server(tmp_path / "state", listen_addresses=f"127.0.0.1,{here}", hba_file=str(hba))
        yield name, server
        embedded.destroy(server.state)
        hba.unlink()
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@needs_root
def test_15_a_job_is_claimed_again_after_a_lost_network(far_network: tuple[str, OwnServer], tmp_path: Path) -> None:
    name, own = far_network
    near = own.server.url("pypredict")
    engine = database.connect(near, wait_seconds=10)
    setup = make_setup(near, engine, tmp_path / "models")
    with closing(psycopg2.connect(own.server.url())) as owner, owner, owner.cursor() as cursor:
        # A minute in production; the link may be cut inside a transaction.
        cursor.execute("ALTER ROLE pypredict SET idle_in_transaction_session_timeout = '1s'")
    far = FaultSetup(near.replace("127.0.0.1", "10.213.77.1"), setup.models, engine, setup.bundle)
    far.prefix = ["ip", "netns", "exec", name]
    cut_off = far.start("--point", "predicting", "--lease", "2", "--daemon")
    reach(cut_off, "predicting")
    subprocess.run(["ip", "link", "set", f"{name}a", "down"], check=True)
    setup.finish()
    setup.assert_exact(N)
    assert cut_off.stdin is not None
    cut_off.stdin.write("\n")
    cut_off.stdin.flush()
    log = iter(cut_off.stderr.readline, "")  # type: ignore[union-attr]
    assert any("the database does not answer" in line or "could not be released" in line for line in log)
    subprocess.run(["ip", "link", "set", f"{name}a", "up"], check=True)
    setup.load(arrays(10))
    until(lambda: setup.rows("SELECT count(*) FROM ml.prediction") == [(N + 10,)])  # the worker is connected again
    cut_off.terminate()
    cut_off.communicate(timeout=30)
    setup.assert_exact(N + 10)
    far.end()
    setup.end()
    engine.dispose()


def load_until_full(setup: FaultSetup) -> int:
    """Load chunks of 1,000 inputs until the disk is full; return how many inputs were stored."""
    for chunks in range(1_000):
        try:
            setup.load(arrays(1000, seed=chunks))
        except (psycopg2.errors.DiskFull, sa.exc.OperationalError):
            return chunks * 1000
    raise AssertionError("the disk never filled")


@needs_root
def test_16_earlier_rows_survive_a_full_disk(own_server: OwnServer) -> None:
    small = own_server.server.data.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True)
    try:
        owner_of_data = own_server.server.data.stat()
        os.chown(small, owner_of_data.st_uid, owner_of_data.st_gid)
        connection = psycopg2.connect(own_server.server.url())
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLESPACE small LOCATION '{small}'")
            cursor.execute("ALTER TABLE ml.input SET TABLESPACE small")
        engine = database.connect(own_server.server.url("pypredict"), wait_seconds=10)
        setup = make_setup(own_server.server.url("pypredict"), engine, own_server.state.parent / "models")
        loaded = load_until_full(setup)
        assert loaded > 0
        assert setup.rows("SELECT count(*) FROM ml.input") == [(N + loaded,)]
        assert setup.rows("SELECT * FROM ml.integrity") == []
        setup.finish()
        setup.assert_exact(N + loaded)
        setup.end()
        engine.dispose()
        connection.close()
    finally:
        embedded.stop(own_server.state)
        subprocess.run(["umount", str(small)], check=True)


def test_21_a_restored_dump_holds_the_same_rows(setup: FaultSetup, db: Database, tmp_path: Path) -> None:
    setup.finish()
    programs = postgres_programs.find_binaries(None)  # the newest pg_dump can read every older server
    dump = tmp_path / "dump"
    subprocess.run([programs / "pg_dump", "-Fc", "-f", dump, db.url()], check=True)
    state = tmp_path / "newest"
    newest = embedded.start(state)
    try:
        target = start_roles(newest)
        subprocess.run([programs / "pg_restore", "--no-owner", "-d", target, dump], check=True)
        engine = database.connect(target, wait_seconds=10)
        restored = FaultSetup(target, setup.models, engine, setup.bundle)
        count = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM ml.{} t"
        for table in ("model", "chunk", "input", "test_set", "job", "prediction", "prediction_error"):
            assert restored.rows(count.format(table)) == setup.rows(count.format(table)), table
        restored.assert_exact(N)
        engine.dispose()
    finally:
        embedded.destroy(state)


def start_roles(server: embedded.Server) -> str:
    """Make the roles on a fresh server by migrating another database there; return the URL of an empty one."""
    engine = database.connect(server.url(), wait_seconds=10)
    migrate.migrate(engine, REPO / "db", [])
    engine.dispose()
    connection = psycopg2.connect(server.url())
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE restored")
    connection.close()
    return server.url(database="restored")
