"""A node of a real Ray cluster is killed: every experiment is published once, every input predicted once."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from faults.conftest import N, make_setup
from support.trainings import DIGITS, PYML, pyml, recorded_groups
from support.workers import until

from bundle.publish import list_bundles, read_pointer
from pypredict.listen import DAEMON

PYPREDICT = PYML.with_name("pypredict")
INPUTS = 300_000
ray_cluster = pytest.importorskip("ray.cluster_utils", reason="make test-ray installs Ray")
LISTENING = (
    f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{DAEMON}' AND datname = current_database()"
)
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture
def nodes() -> Iterator[Any]:
    made = ray_cluster.Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    yield made
    made.shutdown()


def test_a_grid_is_trained_once_when_a_node_is_killed(nodes: Any, tmp_path: Path) -> None:
    other = nodes.add_node(**NODE)
    grid = DIGITS | {"epochs": 100, "optimizer": {"name": "Adam", "learning_rate": [0.01, 0.005, 0.003]}}
    (tmp_path / "tiny.json").write_text(json.dumps(grid))
    bundles = tmp_path / "models/bundles"
    command = [PYML, "train", "tiny.json", "--engine", "ray", "--address", nodes.address]
    environment = os.environ | {"PYML_RECORD": str(tmp_path / "record")}
    with (tmp_path / "log").open("w") as log:
        train = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: len(list(bundles.glob(".tmp-*"))) == 2, 120)  # both nodes train
            os.kill(other.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            assert train.wait(170) == 0, (tmp_path / "log").read_text()
        finally:
            train.kill()
            train.wait()
    assert len(list_bundles(tmp_path / "models")) == 3
    assert "nothing trained" in (tmp_path / "log").read_text()
    assert set(recorded_groups(tmp_path / "record")) == {"tiny"}
    assert pyml("train", "tiny.json", "--models", "alone", cwd=tmp_path).returncode == 0
    alone = read_pointer(tmp_path / "alone/current/digits.json")
    assert read_pointer(tmp_path / "models/current/digits.json").bundle_id == alone.bundle_id


def test_ray_and_options_that_train_twice_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(DIGITS))
    for option in (["--force"], ["--share", "0/2"]):
        done = pyml("train", "tiny.json", "--engine", "ray", *option, cwd=tmp_path)
        assert done.returncode == 1
        assert f"{option[0]} and --engine exclude each other" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_on_ray_says_so(nodes: Any, tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(DIGITS | {"epochs": 5000, "early_stopping": None}))
    command = [PYML, "train", "tiny.json", "--engine", "ray", "--address", nodes.address]
    with (tmp_path / "log").open("w") as log:
        train = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | {"WANDB_MODE": "disabled"}, stdout=log, stderr=log
        )
        try:
            until(lambda: any((tmp_path / "models/bundles").glob(".tmp-*")), 90)
            train.send_signal(number)
            assert train.wait(60) == code
        finally:
            train.kill()
            train.wait()
    assert f"stopped by {signal.Signals(number).name}" in (tmp_path / "log").read_text()


def test_a_stop_ends_all_workers_on_ray(nodes: Any, db: Database, engine: sa.Engine, tmp_path: Path) -> None:
    setup = make_setup(db.url("pypredict"), engine, tmp_path)
    command = [PYPREDICT, "run", "--engine", "ray", "--workers", "2", "--address", nodes.address, "--models", tmp_path]
    environment = os.environ | login(db, tmp_path)
    nodes.add_node(**NODE)
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: setup.rows(LISTENING) == [(2,)], 90)
            run.terminate()
            assert run.wait(90) == 0, (tmp_path / "log").read_text()
        finally:
            run.kill()
            run.wait()
    until(lambda: setup.rows(LISTENING) == [(0,)], 30)


def login(db: Database, directory: Path) -> dict[str, str]:
    """Give libpq's variables of the service's login, with its password in a file."""
    url, passfile = sa.make_url(db.url("pypredict")), directory / "pgpass"
    passfile.write_text(f"*:*:*:pypredict:{url.password}\n")
    passfile.chmod(0o600)
    found = {"PGHOST": url.host or "", "PGPORT": str(url.port), "PGDATABASE": db.name, "PGUSER": "pypredict"}
    return found | {"PGPASSFILE": str(passfile), "PYPREDICT_LEASE_SECONDS": "3"}


def test_each_input_is_predicted_once_when_a_node_is_killed(
    nodes: Any, db: Database, engine: sa.Engine, tmp_path: Path
) -> None:
    other = nodes.add_node(**NODE)
    setup = make_setup(db.url("pypredict"), engine, tmp_path)
    setup.load(np.random.default_rng(1).integers(0, 256, (INPUTS, 4, 4, 1), np.uint8))
    command = [PYPREDICT, "run", "--engine", "ray", "--workers", "2", "--until-empty", "--address", nodes.address]
    environment = os.environ | login(db, tmp_path)
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([*command, "--models", tmp_path], cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: len(setup.rows("SELECT 1 FROM ml.job WHERE state = 'done' LIMIT 1")) == 1, 60)
            os.kill(other.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            assert setup.rows("SELECT 1 FROM ml.job WHERE state <> 'done' LIMIT 1") == [(1,)]
            assert run.wait(120) == 0, (tmp_path / "log").read_text()
        finally:
            run.kill()
            run.wait()
    setup.assert_exact(INPUTS + N)
    session = Path(nodes.head_node.get_session_dir_path())
    password = sa.make_url(db.url("pypredict")).password or ""
    records = [path for path in session.rglob("*") if path.is_file()]
    assert [path for path in records if password.encode() in path.read_bytes()] == []
