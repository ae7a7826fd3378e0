"""A training that is stopped or fails publishes nothing and says one sentence; a failed tracker does not stop it."""

import json
import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.trainings import LAST, PYML, SCALE, TINY, experiment

from bundle.manifest import TrackedRun
from pyml import PymlError
from pyml.config import Settings
from pyml.datasets.load import DatasetCache
from pyml.training import train as training
from pyml.training.model_file import Served, write_model
from pyml.training.train import check_experiments, train


def unrecorded(models: Path) -> Settings:
    return Settings(models=models, wandb_mode="disabled")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_leaves_nothing(tmp_path: Path, stop: signal.Signals) -> None:
    (tmp_path / "long.json").write_text(json.dumps({**TINY, "epochs": 100_000}))
    process = subprocess.Popen(
        ["env", "--default-signal=INT", PYML, "train", "long.json"],  # background processes of a shell ignore SIGINT
        cwd=tmp_path,
        env={**os.environ, "WANDB_MODE": "offline"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        while not process.stderr.readline().startswith("epoch 1/"):
            assert process.poll() is None, "the training ended before it began"
        process.send_signal(stop)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + stop
    assert said.splitlines()[-1].startswith("pyml: stopped by")
    assert "Traceback" not in said
    assert list((tmp_path / "models").rglob("*")) == [tmp_path / "models/bundles"]


def test_35_a_tracker_that_dies_logs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise wandb.errors.CommError("the service process is gone")

    for name in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", "")
    monkeypatch.setenv("WANDB_SILENT", "")
    monkeypatch.setattr(wandb, "init", refuse)
    with caplog.at_level(logging.WARNING, "pyml"):
        bundle, _ = train(
            experiment(epochs=1), Settings(models=tmp_path, record=tmp_path / "wandb", wandb_mode="offline")
        )
    assert bundle.manifest.tracked_run == TrackedRun(mode="disabled")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("pyml")]
    assert said == ["W&B: no record (CommError: the service process is gone); the training continues"]


def test_a_diverging_training_publishes_nothing(tmp_path: Path) -> None:
    exploding = [*TINY["layers"][:-1], {"layer": "Dense", "units": 64, "activation": "exponential"}, TINY["layers"][-1]]
    diverging = experiment(layers=exploding, optimizer={"name": "SGD", "learning_rate": 1e10})
    with pytest.raises(PymlError, match=r"diverged in epoch 1: .* is nan; lower the learning rate"):
        train(diverging, unrecorded(tmp_path))
    assert list(tmp_path.rglob("*")) == [tmp_path / "bundles"]


def test_an_error_during_the_training_is_one_sentence(tmp_path: Path) -> None:
    lookup = [TINY["layers"][0], {"layer": "Flatten"}, {"layer": "Embedding", "input_dim": 1, "output_dim": 2}]
    mistaken = experiment(layers=[*lookup, {"layer": "Flatten"}, TINY["layers"][-1]])
    with pytest.raises(PymlError, match=r"^experiment tiny: training failed: [^\n]*$"):
        train(mistaken, unrecorded(tmp_path))


LOSSY = [
    [{"layer": "RandomZoom", "height_factor": [-0.1, 0.1]}],
    [{"layer": "LayerNormalization", "axis": [1, 2]}],
    [{"layer": "UnitNormalization", "axis": [1, 2]}],
    [{"layer": "Softmax", "axis": [1, 2, 3]}],
]


@pytest.mark.parametrize("lossy", LOSSY, ids=lambda layers: layers[0]["layer"])
def test_a_layer_that_the_model_file_loses_is_refused(tmp_path: Path, lossy: list[dict[str, Any]]) -> None:
    losing = experiment(layers=[SCALE, *lossy, {"layer": "Flatten"}, LAST])
    elsewhere = unrecorded(tmp_path)
    said = (
        r"^experiment tiny: (the model cannot be written to model\.h5: |model\.h5 gives other predictions than)[^\n]*$"
    )
    with pytest.raises(PymlError, match=said):
        check_experiments([losing], elsewhere, DatasetCache(elsewhere))
    with pytest.raises(PymlError, match=said):
        train(losing, elsewhere)
    assert not list(tmp_path.glob("bundles/*"))
    assert not (tmp_path / "current").exists()


def test_nan_predictions_are_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def some_nan(*arguments: Any) -> Served:
        served = write_model(*arguments)
        served.probabilities[:2] = np.nan
        return served

    monkeypatch.setattr(training, "write_model", some_nan)
    monkeypatch.setattr("pyml.training.fit.add_auroc", lambda *_: None)
    with pytest.raises(PymlError, match="predicts no finite number for 2 test samples; look for extreme values"):
        train(experiment(), unrecorded(tmp_path))
