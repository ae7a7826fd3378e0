"""What the log says of a run: one line of counts, or one for each chunk, or JSON objects."""

import json
import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import publish_bundle
from support.tflite_models import fake_model
from support.workers import daemon, load, scalar, until, worker_for

from pypredict import jobs, run_log
from pypredict.jobs import Job
from pypredict.run_log import RunLog

JOB = Job(model_id=1, chunk_id=2, attempt=1, failures=0, dtype="uint8", shape=(4, 4, 1), n_inputs=10, labelled=False)


def run(db: Database, models: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    start = "from pypredict.cli import main; main()"
    env = os.environ | {"DATABASE_URL": db.url("pypredict"), "PYPREDICT_MODELS": str(models)} | variables
    command = [sys.executable, "-c", start, "run", "--until-empty", *options]
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=60, check=False)


def publish(models: Path) -> None:
    publish_bundle(models, n=20_000, serving=fake_model())  # 20 chunks


@pytest.mark.usefixtures("engine")
def test_twenty_chunks_give_one_line_of_counts(db: Database, tmp_path: Path) -> None:
    publish(tmp_path)
    done = run(db, tmp_path)
    assert done.returncode == 0, done.stderr
    first, *others = done.stderr.splitlines()
    assert first.endswith(" starts; no model serves yet")
    (line,) = (line for line in others if "predicted" in line)
    assert "INFO 20000 inputs predicted, 0 refused, in 20 jobs and " in line
    assert line == others[-1]
    assert "model 1 (toy) serves toys" in run(db, tmp_path).stderr


@pytest.mark.usefixtures("engine")
def test_verbose_gives_a_line_for_each_chunk(db: Database, tmp_path: Path) -> None:
    publish(tmp_path)
    lines = run(db, tmp_path, "--verbose").stderr.splitlines()
    each = [line for line in lines if re.search(r"DEBUG model 1, chunk \d+: 1000 predicted, 0 refused$", line)]
    assert len(each) == 20


@pytest.mark.usefixtures("engine")
def test_json_log_has_an_object_in_each_line(db: Database, tmp_path: Path) -> None:
    publish(tmp_path)
    lines = [json.loads(line) for line in run(db, tmp_path, PYPREDICT_LOG="json").stderr.splitlines()]
    assert {line["level"] for line in lines} == {"INFO"}
    assert all(abs(datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds() < 60 for line in lines)
    (serves,) = (line for line in lines if "now serves" in line["message"])
    assert (serves["dataset"], serves["model"], serves["bundle"]) == ("toys", 1, "toy")
    assert (lines[-1]["inputs"], lines[-1]["refused"], lines[-1]["jobs"]) == (20_000, 0, 20)


def test_an_error_is_a_json_object_too(db: Database, tmp_path: Path) -> None:
    done = run(db, tmp_path / "absent", PYPREDICT_LOG="json")
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "ERROR"
    assert line["message"].startswith("there is no models directory ")


def test_a_bug_of_the_program_is_a_json_object_with_its_traceback() -> None:
    start = "from pypredict import cli; cli.read_settings = None; cli.main()"
    env = os.environ | {"PYPREDICT_LOG": "json"}
    command = [sys.executable, "-c", start, "status"]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "CRITICAL"
    assert line["traceback"].splitlines()[-1] == "TypeError: 'NoneType' object is not callable"


def test_another_form_of_the_log_is_refused(db: Database, tmp_path: Path) -> None:
    done = run(db, tmp_path, PYPREDICT_LOG="xml")
    assert done.returncode == 1
    assert "PYPREDICT_LOG" in done.stderr


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == run_log.__name__]


def test_counts_are_written_at_most_once_a_minute(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "pypredict")
    written = RunLog(engine)
    for _ in range(3):
        written.add(JOB, 9, 1)
        written.write_line(idle=False)
    assert lines_of(caplog) == []
    written.write_line(idle=True)  # the first work is done: a person who waits for it reads so at once
    (first,) = lines_of(caplog)
    assert first.startswith("27 inputs predicted, 3 refused, in 3 jobs and 0 s (")
    assert first.endswith("; 0 wait")
    written.add(JOB, 10, 0)
    written.write_line(idle=True)
    assert lines_of(caplog) == [first]
    monkeypatch.setattr(run_log, "LINE_SECONDS", 0.0)
    written.write_line(idle=False)
    assert lines_of(caplog)[1].startswith("10 inputs predicted, 0 refused, in 1 job ")
    written.write_line(idle=False)  # nothing was done, nothing waits
    assert len(lines_of(caplog)) == 2


def test_counts_that_come_while_a_line_is_written_are_in_the_next_line(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "pypredict")
    written = RunLog(engine)
    monkeypatch.setattr(run_log, "LINE_SECONDS", 0.0)

    def count(_: sa.Connection) -> int:
        written.add(JOB, 5, 0)
        return 0

    monkeypatch.setattr(jobs, "count_waiting", count)
    written.add(JOB, 9, 1)
    for _ in range(3):
        written.write_line(idle=False)
    said = [int(line.split(" inputs")[0]) for line in lines_of(caplog)]
    assert said == [9, 5, 5]
    assert sum(said) + 5 == written.counts.inputs


def test_a_line_says_how_many_inputs_wait(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "pypredict")
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.zeros((7, 4, 4, 1), np.uint8))
    with engine.begin() as connection:
        jobs.plan_jobs(connection)  # a worker has planned before it writes a line
    monkeypatch.setattr(run_log, "LINE_SECONDS", 0.0)
    caplog.clear()
    RunLog(engine).write_line(idle=True)
    assert lines_of(caplog) == ["0 inputs predicted, 0 refused, in 0 jobs and 0 s; 7 wait"]


def test_a_daemon_writes_its_first_counts_at_once(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pypredict")
    bundle = publish_bundle(tmp_path, n=3000)
    with daemon(engine, tmp_path):
        until(lambda: any(line.startswith("3000 inputs predicted, 0 refused, in 3 jobs") for line in lines_of(caplog)))
        load(engine, bundle, np.zeros((7, 4, 4, 1), np.uint8))
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.prediction") == 3007)
    assert len(lines_of(caplog)) == 1  # the next line comes a minute later
