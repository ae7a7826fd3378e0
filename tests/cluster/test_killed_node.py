"""A node of a real Ray cluster is killed while a grid is trained: every experiment is published once."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.trainings import DIGITS, PYML
from support.workers import until

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="make test-ray installs Ray")
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture
def cluster() -> Iterator[Any]:
    made = ray_cluster.Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    yield made
    made.shutdown()


def test_a_grid_is_trained_once_when_a_node_is_killed(cluster: Any, tmp_path: Path) -> None:
    other = cluster.add_node(**NODE)
    grid = DIGITS | {"epochs": 100, "optimizer": {"name": "Adam", "learning_rate": [0.01, 0.005, 0.003]}}
    (tmp_path / "tiny.json").write_text(json.dumps(grid))
    bundles = tmp_path / "models/bundles"
    command = [PYML, "train", "tiny.json", "--engine", "ray", "--address", cluster.address]
    environment = os.environ | {"WANDB_MODE": "disabled"}
    with (tmp_path / "log").open("w") as log:
        train = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: len(list(bundles.glob(".tmp-*"))) == 2, 60)  # both nodes train
            os.kill(other.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            assert train.wait(150) == 0, (tmp_path / "log").read_text()
        finally:
            train.kill()
            train.wait()
    assert len(list(bundles.iterdir())) == 3
    assert (tmp_path / "models/current/digits.json").exists()
    assert "nothing trained" in (tmp_path / "log").read_text()
