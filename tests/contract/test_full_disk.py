"""A full disk is named; the model is not blamed for it."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from support.trainings import experiment, settings_without_wandb

from pyml import PymlError
from pyml.datasets.dataset import Dataset
from pyml.datasets.load import load_dataset
from pyml.training.build_model import build_model
from pyml.training.conversion import convert_model
from pyml.training.model_file import write_model


def fail(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("Can't destroy cache (slist already enabled?)")


def measure(monkeypatch: pytest.MonkeyPatch, free: int) -> list[Path]:
    """Let each disk have this free space; give the list of the directories that are measured."""
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr("shutil.disk_usage", usage)
    return asked


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset(experiment().data, settings_without_wandb(tmp_path))


@pytest.mark.parametrize(("free", "said"), [(2**20 - 1, "is full, so the model"), (2**20, "cannot be written to")])
def test_27_a_full_disk_is_named_when_model_h5_cannot_be_written(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, said: str
) -> None:
    model = build_model(experiment(), dataset)
    monkeypatch.setattr(type(model), "save", fail)
    asked = measure(monkeypatch, free)
    with pytest.raises(PymlError, match=said):
        write_model(model, tmp_path, dataset, dataset.test)
    assert asked == [tmp_path]


@pytest.mark.parametrize(("free", "said"), [(2**20 - 1, "is full, so the model"), (2**20, "model cannot be served")])
def test_27_a_full_disk_is_named_when_the_conversion_fails(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, said: str
) -> None:
    import tensorflow as tf

    model = build_model(experiment(), dataset)
    monkeypatch.setattr(tf.saved_model, "save", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    asked = measure(monkeypatch, free)
    with pytest.raises(PymlError, match=said):
        convert_model(model, dataset.input)
    assert [path.parent for path in asked] == [tmp_path]
