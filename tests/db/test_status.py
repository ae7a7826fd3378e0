"""The state of the queue, for people and for Prometheus, and the health check of the daemon."""

import os
import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import publish_bundle
from support.workers import console, daemon, load, until, worker_for

from pypredict import PypredictError, promotion, registry
from pypredict.health import HealthFile, check_health
from pypredict.metrics import Collector, serve_metrics
from pypredict.report import show
from pypredict.status import Status, read_status, status_lines


def now(engine: sa.Engine) -> Status:
    with engine.begin() as connection:
        return read_status(connection)


def test_status_counts_open_and_done_inputs(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.zeros((7, 4, 4, 1), np.uint8))
    status = now(engine)
    assert (status.open_jobs, status.running_jobs, status.open_inputs) == (1, 0, 7)
    assert status.inputs_per_second == pytest.approx(30 / 60)
    assert status.lag_seconds > 0


def test_status_counts_inputs_that_are_not_planned(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.random.default_rng(0).integers(0, 256, (6000, 4, 4, 1), np.uint8))
    assert (now(engine).open_jobs, now(engine).open_inputs, now(engine).unserved_inputs) == (6, 6000, 0)


def test_status_counts_inputs_that_no_model_takes(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        promotion.retire(connection, registry.find_model(connection, "1"))
    load(engine, bundle, np.zeros((7, 4, 4, 1), np.uint8))
    assert (now(engine).open_inputs, now(engine).unserved_inputs) == (0, 7)


def test_status_lines_have_units(engine: sa.Engine) -> None:
    lines = list(status_lines(now(engine)))
    assert "           0.0 s    Age of the oldest input that waits" in lines
    assert "           0.0 1/s  Inputs predicted per second, over the last minute" in lines
    assert "             0      Inputs that wait for their prediction" in lines


def test_report_shows_inputs_that_are_not_planned(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.zeros((7, 4, 4, 1), np.uint8))
    with engine.begin() as connection:
        show(connection, console(80))
    row = next(line for line in capsys.readouterr().out.splitlines() if "serving" in line)
    assert row.split()[-2:] == ["30", "7"]  # predicted, waiting


def test_prometheus_reads_the_same_numbers(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    port = serve_metrics(0, "127.0.0.1", Collector(engine, tmp_path, None, lambda: 30))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert "pypredict_open_jobs 0.0" in text
    assert "pypredict_predicted_inputs_total 30.0" in text
    assert "# HELP pypredict_lag_seconds Age of the oldest input that waits" in text


def test_a_metrics_port_in_use_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PypredictError, match=f"port {port} of 127.0.0.1 .*in use"):
            serve_metrics(port, "127.0.0.1", Collector(engine, tmp_path, None))


def test_health_checks_the_age_of_the_file(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with pytest.raises(PypredictError, match="has not started"):
        check_health(beat)
    beat.touch()
    check_health(beat)
    os.utime(beat, (0, 0))
    with pytest.raises(PypredictError, match="the daemon wrote"):
        check_health(beat)


def test_a_worker_writes_its_health_file(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    worker_for(engine, tmp_path, health_file=tmp_path / "beat").run(until_empty=True)
    check_health(tmp_path / "beat")


def test_the_health_file_is_replaced_whole(tmp_path: Path) -> None:
    health = HealthFile(tmp_path / "beat")
    health.trouble = "the database refuses the login"
    health.write()
    with (tmp_path / "beat").open() as reader:
        health.trouble = ""
        health.write()
        assert reader.read() == "the database refuses the login"
    assert [path.name for path in tmp_path.iterdir()] == ["beat"]


def test_a_health_file_that_cannot_be_written_is_said_once(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_bundle(tmp_path)
    assert worker_for(engine, tmp_path, health_file=tmp_path / "none/beat").run(until_empty=True) == 30
    assert caplog.text.count("none/beat cannot be written: No such file or directory") == 1


def test_a_worker_with_a_refused_login_is_unhealthy(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, db: Database, no_backoff: None
) -> None:
    publish_bundle(tmp_path)
    beat = tmp_path / "beat"

    def is_healthy() -> bool:
        try:
            check_health(beat)
        except PypredictError:
            return False
        return True

    def allow(connections: int) -> None:
        with owner.begin() as connection:
            connection.execute(sa.text(f'ALTER DATABASE "{db.name}" WITH CONNECTION LIMIT {connections}'))
            verb = "GRANT" if connections else "REVOKE"
            direction = "TO" if connections else "FROM"
            connection.execute(sa.text(f'{verb} CONNECT ON DATABASE "{db.name}" {direction} PUBLIC'))

    with daemon(engine, tmp_path, health_file=beat):
        until(is_healthy)
        allow(0)
        with owner.begin() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'pypredict' AND datname = current_database()"
                )
            )
        until(lambda: not is_healthy())
        with pytest.raises(PypredictError, match="the daemon cannot work: the database refuses the login"):
            check_health(beat)
        allow(-1)
        until(is_healthy)
