"""What is nearly used up on a real server and a real disk is said: in the log, in the status, in the metrics."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
import sqlalchemy as sa
from conftest import Database
from faults.conftest import OwnServer, start_server
from support.bundles import fake_predict, publish_bundle
from support.workers import daemon, load, scalar, until, worker_for

import embedded
from bundle.verify import Bundle
from pypredict import database, resources, worker
from pypredict.resources import find_warnings, read_resources

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="SKIPPED, LOUDLY: needs root (a tmpfs)")
PYPREDICT = [sys.executable, "-c", "from pypredict.cli import main; main()"]


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Let the worker look at the resources in each turn, and keep its log."""
    monkeypatch.setattr(worker, "ATTENTION_SECONDS", 0)
    caplog.set_level(logging.INFO, "pypredict")


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[OwnServer]:
    """A server with few connections and little WAL."""
    settings = {"max_connections": "24", "max_wal_size": "32MB", "min_wal_size": "32MB", "max_replication_slots": "1"}
    made = start_server(tmp_path / "state", **settings)
    yield made
    embedded.destroy(made.state)


def environment(url: str, models: Path) -> dict[str, str]:
    return os.environ | {"DATABASE_URL": url, "PYPREDICT_MODELS": str(models)}


def status(url: str, models: Path) -> dict[str, Any]:
    command = [*PYPREDICT, "status", "--json"]
    done = subprocess.run(command, env=environment(url, models), capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@contextmanager
def metrics_process(url: str, models: Path) -> Iterator[str]:
    """Run `pypredict metrics` until the end of the block; give its address."""
    command = [*PYPREDICT, "metrics", "--port", "0"]
    with subprocess.Popen(command, env=environment(url, models), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield process.stderr.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        assert process.returncode == 0


def read_metrics(address: str) -> str:
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own address
        text: str = answer.read().decode()
    return text


def warning_gauges(address: str) -> dict[str, float]:
    found = re.findall(r'^pypredict_warning\{kind="(\w+)"\} (\S+)', read_metrics(address), re.MULTILINE)
    return {kind: float(value) for kind, value in found}


def said_of(kind: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the log's lines about one kind of warning."""
    records = [record for record in caplog.records if getattr(record, "fields", {}).get("warning") == kind]
    return [f"{record.levelname} {record.getMessage()}" for record in records]


def predict_more(engine: sa.Engine, bundle: Bundle, number: int) -> None:
    """Let the daemon take some turns: load one input and wait for its prediction."""
    before = scalar(engine, "SELECT count(*) FROM ml.prediction")
    load(engine, bundle, np.full((1, 4, 4, 1), number, np.uint8))
    until(lambda: scalar(engine, "SELECT count(*) FROM ml.prediction") != before)


def test_a_shortage_of_connections_is_said_once_and_its_end_once(
    small_server: OwnServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = small_server.server.url("pypredict")
    engine = database.connect(url, wait_seconds=10)
    bundle = publish_bundle(tmp_path)
    with daemon(engine, tmp_path), metrics_process(url, tmp_path) as address:
        predict_more(engine, bundle, 1)
        assert warning_gauges(address) == dict.fromkeys(resources.LIMITS, 0.0)
        with ExitStack() as idle:
            while int(str(scalar(engine, "SELECT connections FROM ml.server_state()"))) < 19:  # 90 % of 21
                idle.enter_context(closing(psycopg2.connect(small_server.server.url("reader"))))
            until(lambda: len(said_of("connections", caplog)) == 1)
            predict_more(engine, bundle, 2)
            assert warning_gauges(address)["connections"] == 1
            warning = status(url, tmp_path)["warnings"]["connections"]
            assert re.fullmatch(r"\d+ of 21 connections to the database server are in use: end idle .*", warning)
        until(lambda: len(said_of("connections", caplog)) == 2)
        predict_more(engine, bundle, 3)
        assert warning_gauges(address)["connections"] == 0
    began, ended = said_of("connections", caplog)
    assert re.match(r"WARNING \d+ of 21 connections to the database server are in use: ", began)
    assert ended == "INFO over: the warning of the kind connections"
    engine.dispose()


def test_wal_that_a_slot_holds_back_is_said_once_and_its_end_once(
    small_server: OwnServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = small_server.server.url("pypredict")
    engine = database.connect(url, wait_seconds=10)
    bundle = publish_bundle(tmp_path)
    owner = psycopg2.connect(small_server.server.url())
    owner.autocommit = True
    with closing(owner), owner.cursor() as cursor, daemon(engine, tmp_path):
        predict_more(engine, bundle, 1)
        assert said_of("wal", caplog) == []
        cursor.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
        for _ in range(6):  # segments of 16 MB
            cursor.execute("SELECT pg_logical_emit_message(false, 'a test', 'x')")
            cursor.execute("SELECT pg_switch_wal()")
        cursor.execute("CHECKPOINT")
        until(lambda: len(said_of("wal", caplog)) == 1)
        predict_more(engine, bundle, 2)
        assert "drop the slot (pg_replication_slots)" in status(url, tmp_path)["warnings"]["wal"]
        cursor.execute("SELECT pg_drop_replication_slot('forgotten')")
        cursor.execute("CHECKPOINT")
        until(lambda: len(said_of("wal", caplog)) == 2)
        predict_more(engine, bundle, 3)
    began, ended = said_of("wal", caplog)
    assert re.match(r"WARNING \d+\.\d MB of 33\.6 MB of WAL are held by the database server: start the reader", began)
    assert ended == "INFO over: the warning of the kind wal"
    engine.dispose()


@needs_root
def test_a_nearly_full_models_volume_is_said_once_and_its_end_once(
    engine: sa.Engine, db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(models)], check=True)
    try:
        bundle = publish_bundle(models)
        with daemon(engine, models):
            predict_more(engine, bundle, 1)
            assert said_of("models_disk", caplog) == []
            (models / "large").write_bytes(bytes(7_800_000))
            until(lambda: len(said_of("models_disk", caplog)) == 1)
            predict_more(engine, bundle, 2)
            assert "of the disk of the models volume" in status(db.url("pypredict"), models)["warnings"]["models_disk"]
            (models / "large").unlink()
            until(lambda: len(said_of("models_disk", caplog)) == 2)
            predict_more(engine, bundle, 3)
        began, ended = said_of("models_disk", caplog)
        assert re.match(r"WARNING [78]\.\d MB of 8\.4 MB of the disk of the models volume are used: remove ", began)
        assert ended == "INFO over: the warning of the kind models_disk"
    finally:
        subprocess.run(["umount", str(models)], check=True)


def test_a_database_near_its_quota_is_a_warning(engine: sa.Engine, tmp_path: Path) -> None:
    def warnings(db_disk: int) -> dict[str, str]:
        with engine.begin() as connection:
            return find_warnings(read_resources(connection, tmp_path, db_disk))

    with engine.begin() as connection:
        size = read_resources(connection, tmp_path, None).database_bytes
    assert size is not None
    assert size > 10_000_000
    assert "PYPREDICT_DB_DISK" in warnings(size)["database_disk"]
    assert "database_disk" not in warnings(2 * size)


def test_an_absent_models_volume_has_no_numbers(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        found = read_resources(connection, tmp_path / "absent", None)
    assert (found.models_disk_bytes, found.unregistered_bundles) == (None, None)


def test_a_refused_bundle_is_counted(engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = publish_bundle(tmp_path)
    broken = publish_bundle(tmp_path / "aside", bundle_id="broken").path
    (broken / "manifest.json").write_text("{}")
    with daemon(engine, tmp_path):
        predict_more(engine, bundle, 1)
        broken.rename(tmp_path / "bundles/broken")
        until(lambda: any("broken" in record.getMessage() for record in caplog.records))
        with engine.begin() as connection:
            assert read_resources(connection, tmp_path, None).unregistered_bundles == 1


def test_a_disk_without_a_size_is_not_nearly_full(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        now = read_resources(connection, tmp_path, None)
    assert "models_disk" not in find_warnings(replace(now, models_disk_bytes=0, models_disk_used_bytes=0))


def test_a_number_that_cannot_be_read_does_not_end_the_predictions(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr(worker, "read_resources", fail)
    publish_bundle(tmp_path)
    assert worker_for(engine, tmp_path).run(until_empty=True) > 0
    assert "the resources cannot be measured: No usable temporary directory" in caplog.text


def test_metrics_say_that_the_database_does_not_answer(own_server: OwnServer, tmp_path: Path) -> None:
    with metrics_process(own_server.server.url("pypredict"), tmp_path) as address:
        assert "pypredict_database_up 1.0" in read_metrics(address)
        own_server.crash()
        text = read_metrics(address)
        assert "pypredict_database_up 0.0" in text
        assert "pypredict_open_inputs" not in text
        own_server.start()
        assert "pypredict_open_inputs 0.0" in read_metrics(address)


def test_metrics_count_the_workers_and_the_jobs_that_failed(
    engine: sa.Engine, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pypredict.worker.BACKOFF_SECONDS", (60,) * 6)  # a job that failed stays so
    bundle = publish_bundle(tmp_path)

    def predict(arrays: np.ndarray) -> np.ndarray:
        if (arrays == 9).any():
            raise RuntimeError("this one fails")
        return fake_predict(arrays)

    with metrics_process(db.url("pypredict"), tmp_path) as address:
        assert "pypredict_workers 0.0" in read_metrics(address)
        with daemon(engine, tmp_path, predict):
            predict_more(engine, bundle, 1)
            assert "pypredict_workers 1.0" in read_metrics(address)
            load(engine, bundle, np.full((1, 4, 4, 1), 9, np.uint8))
            until(lambda: scalar(engine, "SELECT count(*) FROM ml.job WHERE failures > 0 AND state <> 'done'") == 1)
            assert "pypredict_failed_jobs 1.0" in read_metrics(address)
