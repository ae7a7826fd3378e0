"""The experiments of the repository reach the accuracy that is usual for their datasets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.verify import Bundle, open_bundle

REPO = Path(__file__).resolve().parents[2]
PYML = Path(sys.executable).with_name("pyml")


def train(name: str, data_dir: Path, directory: Path) -> Bundle:
    done = subprocess.run(
        [PYML, "all", REPO / "experiments" / f"{name}.json", "--data-dir", data_dir],
        cwd=directory,
        env={**os.environ, "WANDB_MODE": "offline"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (path,) = directory.glob(f"models/bundles/{name}-*")
    return open_bundle(path)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "epochs", "n", "least"),
    [("imdb_cnn", 2, 25_000, 0.88), ("animals_medium", 60, 180, 0.60), ("mnist_cnn", 15, 10_000, 0.990)],
)
def test_an_experiment_file_reaches_its_accuracy(
    data_dir: Path, tmp_path: Path, name: str, epochs: int, n: int, least: float
) -> None:
    manifest = train(name, data_dir, tmp_path).manifest
    print(f"{name}: accuracy {manifest.metrics.accuracy}, {manifest.train_seconds:.0f} s")
    assert manifest.metrics.accuracy >= least
    assert manifest.metrics.n == n
    assert manifest.epochs_trained <= epochs
