"""A real, short training: it learns, publishes a valid bundle, and is not repeated."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.trainings import TINY, experiment, pyml

from bundle import BundleError
from bundle.inference.load import load_model
from bundle.manifest import InputSpec
from bundle.publish import bundle_path
from bundle.verify import Bundle, open_bundle
from pyml.config import Settings
from pyml.datasets.load import load_dataset
from pyml.evaluation.metrics import evaluate
from pyml.evaluation.recheck import recheck
from pyml.experiment.experiment import Experiment
from pyml.training.train import train


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volume")


@pytest.fixture(scope="session")
def settings(volume: Path) -> Settings:
    return Settings(models=volume / "models", record=volume / "wandb", wandb_mode="offline")


@pytest.fixture(scope="session")
def trained(settings: Settings) -> Iterator[Bundle]:
    """The tiny experiment, trained once and recorded offline. Tests that change the bundle use `copied`."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
            environment.setenv(f"WANDB_{name}_DIR", "")  # the tracker sets them; monkeypatch restores them
        environment.setenv("WANDB_SILENT", "")
        bundle, fresh = train(experiment(), settings)
        assert fresh
        yield bundle


@pytest.fixture(scope="session")
def retrained(trained: Bundle, settings: Settings) -> Bundle:
    """The same experiment, trained again with force."""
    bundle, fresh = train(experiment(), unrecorded(settings), force=True)
    assert fresh
    return bundle


@pytest.fixture
def copied(trained: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.path, tmp_path / trained.path.name))


def unrecorded(settings: Settings) -> Settings:
    return settings.model_copy(update={"wandb_mode": "disabled"})


def recorded(bundle: Bundle, settings: Settings) -> list[dict[str, Any]]:
    """Read the offline record with W&B's own tool, which prints one JSON object per line."""
    directory = bundle.manifest.tracked_run.directory
    assert directory
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run(
        [wandb, "leet", "inspect", "--json", settings.record / directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_bundle_opens(trained: Bundle) -> None:
    assert open_bundle(trained.path) == trained


def test_a_short_training_is_much_better_than_chance(trained: Bundle) -> None:
    assert trained.manifest.metrics.accuracy > 0.6


def test_the_loss_falls_during_the_training(trained: Bundle, settings: Settings) -> None:
    rows = [record["history"]["item"] for record in recorded(trained, settings) if record["type"] == "history"]
    epochs = [row for row in rows if "epoch/epoch" in row]  # the other rows hold plots and tables
    assert [epoch["epoch/epoch"] for epoch in epochs] == [0, 1, 2]
    assert epochs[-1]["epoch/loss"] < 0.5 * epochs[0]["epoch/loss"]
    assert epochs[-1]["epoch/val_loss"] < epochs[0]["epoch/val_loss"]


def test_the_record_holds_the_test_metrics_and_the_model(trained: Bundle, settings: Settings) -> None:
    records = recorded(trained, settings)
    summary: dict[str, Any] = {}
    for record in records:
        summary |= record.get("summary", {}).get("update", {})
    assert summary["test/accuracy"] == trained.manifest.metrics.accuracy
    artifacts = [record["artifact"] for record in records if record["type"] == "artifact"]
    assert [artifact["name"] for artifact in artifacts if artifact["type"] == "model"] == ["tiny"]
    staged = (settings.record / "data/artifacts/staging").iterdir()
    assert (trained.path / "model.h5").read_bytes() in [path.read_bytes() for path in staged]


def test_keras_alone_opens_the_model_and_predicts_the_same(trained: Bundle) -> None:
    import keras

    x = np.load(trained.path / "test_set.npz")["x"]
    predicted = keras.models.load_model(trained.path / "model.h5").predict(x, verbose=0)
    with (trained.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    published = np.array([[row[f"p_{name}"] for name in trained.manifest.classes] for row in rows], np.float32)
    assert np.abs(predicted - published).max() < 1e-6
    assert [trained.manifest.classes[best] for best in predicted.argmax(axis=1)] == [row["predicted"] for row in rows]


def test_the_test_set_file_holds_the_raw_test_set(trained: Bundle) -> None:
    test_set, test = np.load(trained.path / "test_set.npz"), load_dataset(experiment().data, Settings()).test
    assert (test_set["x"].dtype, test_set["y"].dtype) == (np.uint8, np.int64)
    assert np.array_equal(test_set["x"], test.x[:])
    assert np.array_equal(test_set["y"], test.y)


def test_the_manifest_says_what_was_trained(trained: Bundle) -> None:
    manifest = trained.manifest
    assert Experiment.model_validate(manifest.experiment) == experiment()
    assert (manifest.dataset, manifest.input) == ("digits", InputSpec(dtype="uint8", shape=(8, 8, 1)))
    assert (manifest.epochs_trained, manifest.tracked_run.mode) == (3, "offline")
    assert 1 <= manifest.best_epoch <= 3


def test_the_manifest_has_the_metrics_of_the_published_model(trained: Bundle) -> None:
    test_set = np.load(trained.path / "test_set.npz")
    probabilities = load_model(trained).predict(test_set["x"])
    assert evaluate(probabilities, test_set["y"]) == trained.manifest.metrics


@pytest.mark.parametrize("rows", [1, 3, 64, 100])
def test_predictions_are_the_same_bits_for_each_number_of_rows(trained: Bundle, rows: int) -> None:
    x, model = np.load(trained.path / "test_set.npz")["x"], load_model(trained)
    parts = [model.predict(x[start : start + rows]) for start in range(0, len(x), rows)]
    assert np.concatenate(parts).tobytes() == model.predict(x).tobytes()


def test_a_second_training_gives_the_same_bytes(trained: Bundle, retrained: Bundle) -> None:
    assert retrained.model_sha256 == trained.model_sha256


def test_another_seed_gives_other_weights(trained: Bundle, settings: Settings) -> None:
    other, _ = train(experiment(seed=1, epochs=1), unrecorded(settings))
    assert other.model_sha256 != trained.model_sha256


def test_a_forced_rerun_keeps_the_first_bundle(trained: Bundle, retrained: Bundle) -> None:
    assert retrained.path.name == f"{trained.path.name}-run2"
    assert open_bundle(trained.path) == trained
    assert open_bundle(retrained.path) == retrained


def test_a_call_without_force_finds_the_newest_run(retrained: Bundle, settings: Settings) -> None:
    bundle, fresh = train(experiment(), unrecorded(settings))
    assert not fresh
    assert bundle == retrained


def test_a_published_experiment_is_not_trained_again(trained: Bundle, volume: Path) -> None:
    (volume / "tiny.json").write_text(json.dumps(TINY))
    program = (
        "import atexit, sys; from pyml.cli import main;"
        "atexit.register(lambda: print({'tensorflow', 'keras', 'wandb'} & set(sys.modules)));"
        "sys.argv = ['pyml', 'train', 'tiny.json']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=volume, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is published already, nothing trained" in done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_damaged_published_bundle_is_refused(trained: Bundle, settings: Settings, tmp_path: Path) -> None:
    models = Path(shutil.copytree(settings.models, tmp_path / "models"))
    for path in models.glob("bundles/tiny-*/model.h5"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.h5 has \d+ bytes, the manifest says"):
        train(experiment(), unrecorded(settings).model_copy(update={"models": models}))


def test_recheck_finds_all_metrics_equal(trained: Bundle) -> None:
    checks = recheck(trained.path)
    assert {check.metric for check in checks} >= {"n", "n_correct", "accuracy", "loss", "macro_f1"}
    assert all(check.agrees for check in checks)


def test_a_bundle_with_other_metrics_fails_pyml_test(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["metrics"]["n_correct"] += 1
    manifest["metrics"]["accuracy"] = manifest["metrics"]["n_correct"] / manifest["metrics"]["n"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    done = pyml("test", copied, cwd=copied.parent)
    assert done.returncode == 1
    assert done.stderr == f"pyml: the metrics of {copied.name} differ from its manifest: n_correct, accuracy\n"


def test_23_a_flipped_byte_fails_pyml_test_with_one_sentence(copied: Path) -> None:
    data = bytearray((copied / "model.h5").read_bytes())
    data[-1] ^= 1
    (copied / "model.h5").write_bytes(data)
    done = pyml("test", copied, cwd=copied.parent)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "model.h5 has sha256" in done.stderr


def test_a_model_that_changed_after_the_check_is_not_loaded(copied: Path) -> None:
    bundle = open_bundle(copied)
    (copied / "model.tflite").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.tflite changed while it was being read"):
        load_model(bundle)


def test_33_a_model_with_another_width_than_classes_is_refused(copied: Path) -> None:
    bundle = open_bundle(copied)
    fewer = bundle.manifest.model_copy(update={"classes": bundle.manifest.classes[:9]})
    with pytest.raises(BundleError, match=r"gives .* \[-1, 10\]\), float32 \[-1, 9\] is needed"):
        load_model(Bundle(copied, fewer))


def test_a_damaged_bundle_is_trained_again_beside_it_with_force(
    copied: Path, tmp_path: Path, settings: Settings
) -> None:
    models = tmp_path / "models"
    damaged = bundle_path(models, copied.name)
    damaged.parent.mkdir(parents=True)
    copied.rename(damaged)
    (damaged / "model.h5").write_bytes(b"damaged")
    local = unrecorded(settings).model_copy(update={"models": models})
    with pytest.raises(BundleError, match=r"model\.h5 has 7 bytes, .*; pyml train --force trains it again beside"):
        train(experiment(), local)
    bundle, fresh = train(experiment(), local, force=True)
    assert (bundle.path.name, fresh) == (f"{damaged.name}-run2", True)
    assert train(experiment(), local) == (open_bundle(bundle.path), False)


def test_a_training_without_early_stopping_runs_all_epochs(trained: Bundle) -> None:
    assert trained.manifest.epochs_trained == TINY["epochs"]


def test_start_keras_is_silent_and_keeps_garbage_collection_on() -> None:
    code = "import gc; from pyml.keras_library import start_keras; start_keras(); "
    code += "print(gc.isenabled(), gc.get_freeze_count() > 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True True\n", "")
