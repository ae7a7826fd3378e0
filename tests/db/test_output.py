"""What the commands print: one document with `--json`, an input that is shown, a progress bar on terminals only."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import REPO, Database
from support.bundles import publish_bundle
from support.terminal import run_on_terminal
from support.workers import daemon, rows, worker_for

STATUS_KEYS = {
    "open_jobs",
    "running_jobs",
    "open_inputs",
    "unserved_inputs",
    "lag_seconds",
    "inputs_per_second",
    "refused_inputs",
    "failed_jobs",
    "workers",
    "connections",
    "max_connections",
    "wal_bytes",
    "max_wal_bytes",
    "slot_wal_bytes",
    "database_bytes",
    "database_disk_bytes",
    "models_disk_bytes",
    "models_disk_used_bytes",
    "temporary_disk_bytes",
    "temporary_disk_used_bytes",
    "unregistered_bundles",
    "warnings",
}


def run(db: Database, models: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = "from pypredict.cli import main; main()"
    env = os.environ | {"DATABASE_URL": db.url("pypredict"), "PYPREDICT_MODELS": str(models)}
    command = [sys.executable, "-c", start, *arguments]
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=60, check=False)


def document(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)  # NaN and Infinity are not JSON


@pytest.fixture
def models(engine: sa.Engine, tmp_path: Path) -> Path:
    """Make a models directory with one model, whose test set is predicted."""
    publish_bundle(tmp_path, n=100)
    worker_for(engine, tmp_path).run(until_empty=True)
    return tmp_path


def test_status_is_one_document(db: Database, models: Path) -> None:
    status = document(run(db, models, "status", "--json"))
    assert set(status) == STATUS_KEYS
    assert (status["open_jobs"], status["lag_seconds"]) == (0, 0)


def test_models_are_a_list_with_iso_times(db: Database, models: Path) -> None:
    (model,) = document(run(db, models, "models", "list", "--json"))
    assert (model["bundle_id"], model["dataset"], model["state"]) == ("toy", "toys", "serving")
    assert datetime.fromisoformat(model["created_at"]).tzinfo is not None


def test_report_has_the_rows_of_the_views(db: Database, engine: sa.Engine, models: Path) -> None:
    report = document(run(db, models, "report", "--json"))
    assert set(report) == {"progress", "unserved", "accuracy", "confusion", "errors", "problems"}
    assert (report["problems"], report["unserved"], report["errors"]) == ([], [], [])
    counts = {(row["label"], row["predicted"]): row["n"] for row in report["confusion"]}
    counted = rows(engine, "SELECT label, predicted, n FROM ml.confusion")
    assert counts == {(label, predicted): n for label, predicted, n in counted}
    assert report["accuracy"][0]["accuracy"] == report["accuracy"][0]["manifest_accuracy"]


def test_report_names_its_problems_and_ends_with_1(db: Database, owner: sa.Engine, models: Path) -> None:
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.model SET metrics = metrics || '{\"accuracy\": 0.25}'"))
    report = document(run(db, models, "report", "--json"), code=1)
    assert "the manifest says 0.25" in report["problems"][0]


def test_show_draws_an_input_and_names_a_missing_one(db: Database, engine: sa.Engine, models: Path) -> None:
    ((number, drawn),) = rows(engine, "SELECT input_id, ml.show(input_id) FROM ml.input ORDER BY input_id LIMIT 1")
    done = run(db, models, "show", str(number), "999999")
    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == drawn.split("\n")
    assert done.stderr == "pypredict: there is no input 999999; the view ml.inputs lists all inputs\n"


def test_answers_have_null_for_what_is_absent(db: Database, engine: sa.Engine, models: Path) -> None:
    np.save(models / "good.npy", np.ones((4, 4, 1), np.uint8))
    with daemon(engine, models):
        (answer,) = document(run(db, models, "predict", str(models / "good.npy"), "--dataset", "toys", "--json"))
    assert answer == {
        "item": str(models / "good.npy"),
        "predicted": "bee",
        "score": pytest.approx(0.9),
        "reason": None,
        "model": "toy",
    }


def test_predict_prints_the_answers_also_when_an_item_fails(db: Database, engine: sa.Engine, models: Path) -> None:
    good, missing = str(models / "good.npy"), str(models / "no.npy")
    np.save(good, np.ones((4, 4, 1), np.uint8))
    with daemon(engine, models):
        both = run(db, models, "predict", good, missing, "--dataset", "toys", "--json")
        none = run(db, models, "predict", missing, "--dataset", "toys", "--json")
    assert [answer["predicted"] for answer in document(both, code=1)] == ["bee"]
    assert document(none, code=1) == []
    assert len(none.stderr.splitlines()) == 1


RUN = """
import logging, sys
from pathlib import Path
from support.workers import worker_for
from bundle.terminal import log_to_stderr
from pypredict.database import connect
from pypredict.run_bar import run_bar
log_to_stderr("%(message)s", logging.INFO)
engine = connect(sys.argv[1])
worker = worker_for(engine, Path(sys.argv[2]))
with run_bar(engine, shown=True) as worker.on_written:
    worker.run(until_empty=True)
"""


SUPPORT = {"PYTHONPATH": f"{REPO / 'tests'}"}


def run_command(db: Database, models: Path) -> list[str]:
    return [sys.executable, "-c", RUN, db.url("pypredict"), str(models)]


def test_a_run_on_a_terminal_shows_done_of_all_inputs_and_rate(db: Database, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=2500)
    _, plain = run_on_terminal(run_command(db, tmp_path), SUPPORT)
    assert re.search(r"predict .*2500/2500 [\d,]+/s 0:00:00", plain)


def test_a_run_in_a_pipe_shows_lines_of_the_log_only(db: Database, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=2500)
    command = run_command(db, tmp_path)
    shown = subprocess.run(command, env=os.environ | SUPPORT, stderr=subprocess.PIPE, text=True, check=True).stderr
    assert "model 1 (toy) now serves toys" in shown
    assert "chunk" not in shown  # a line for each chunk needs --verbose
    assert "/s" not in shown
    assert "━" not in shown
