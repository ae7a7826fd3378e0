"""Publish models with random weights: real speed, random predictions. Two are those of experiments/, without data."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

import environment
from bundle.inference.load import start_model
from bundle.inputs.preprocessing import ArrayPreprocessing
from bundle.manifest import (
    MODEL_FILE,
    PREDICTIONS_FILE,
    SERVING_FILE,
    SPLIT_FILE,
    TEST_SET_FILE,
    GitState,
    InputSpec,
    Manifest,
    Metrics,
    Serving,
    TrackedRun,
)
from bundle.publish import bundle_path, point, publish, staging
from bundle.split import SplitRow, content_sha256, write_split
from bundle.verify import Bundle, open_bundle
from pyml.datasets.dataset import Dataset, Split
from pyml.experiment.experiment import Experiment, read_experiments
from pyml.keras_library import start_keras
from pyml.training.build_model import build_model
from pyml.training.conversion import convert_model
from pypredict.codec import Array

Labels = npt.NDArray[np.int64]
DATASET, SHAPE = "bench", (28, 28, 1)  # SHAPE: an input of mnist_cnn
LSTM = {
    "name": "lstm",
    "data": {"name": "imdb", "validation": 0.1, "words": environment.TOKENS, "length": 100},
    "layers": [
        {"layer": "Embedding", "input_dim": environment.TOKENS, "output_dim": 32},
        {"layer": "LSTM", "units": 32},
        {"layer": "Dense", "units": 2, "activation": "softmax"},
    ],
    "optimizer": {"name": "Adam", "learning_rate": 0.001},
    "loss": "sparse_categorical_crossentropy",
    "epochs": 1,
    "batch_size": 32,
    "seed": 0,
}


@dataclass(frozen=True)
class Kind:
    """What a model takes, its classes, and how many inputs it predicts in a benchmark (in some seconds)."""

    input: InputSpec
    classes: tuple[str, ...]
    n: int


REVIEWS = ("negative", "positive")
KINDS = {
    "mnist_cnn": Kind(InputSpec(dtype="uint8", shape=SHAPE), tuple("0123456789"), 50_000),
    "imdb_cnn": Kind(InputSpec(dtype="int32", shape=(400,)), REVIEWS, 10_000),
    "lstm": Kind(InputSpec(dtype="int32", shape=(100,)), REVIEWS, 50_000),
}


def publish_model(models: Path, name: str = "mnist_cnn", n_test: int = 1000) -> Bundle:
    """Publish a model and its pointer. The labels are its own predictions on noise, so its accuracy is 1."""
    start_keras()
    import keras

    keras.utils.set_random_seed(0)
    spec, classes = KINDS[name].input, KINDS[name].classes
    x = environment.random_arrays(n_test, spec.shape, spec.dtype, seed=1)
    split = Split(x, np.zeros(n_test, np.int64))
    model = build_model(
        _experiment(name),
        Dataset(DATASET, classes, ArrayPreprocessing(), spec, train=split, validation=split, test=split),
    )
    content = convert_model(model, spec)
    serving = start_model(content, spec, len(classes))
    y = serving.predict(x).argmax(axis=1)
    manifest = Manifest(
        bundle_id=name,
        name=name,
        dataset=DATASET,
        input=spec,
        classes=classes,
        preprocessing=ArrayPreprocessing(),
        serving=Serving(rows=serving.rows),
        experiment={},
        data_sha256="0" * 64,
        test_sha256="0" * 64,
        metrics=Metrics(
            n=n_test, n_correct=n_test, accuracy=1.0, loss=0, macro_precision=1, macro_recall=1, macro_f1=1
        ),
        best_epoch=1,
        epochs_trained=1,
        train_seconds=0,
        parameters=model.count_params(),
        seed=0,
        git=GitState(),
        versions={"keras": keras.__version__},
        tracked_run=TrackedRun(mode="disabled"),
        created_at=datetime.now(UTC),
    )
    with staging(models) as staged:
        model.save(staged / MODEL_FILE, include_optimizer=False)
        (staged / SERVING_FILE).write_bytes(content)
        np.savez(staged / TEST_SET_FILE, x=x, y=y)
        (staged / PREDICTIONS_FILE).write_text("sample,label,predicted,confidence\n")
        write_split(staged / SPLIT_FILE, _split_rows(x, y, classes))
        manifest = publish(staged, models, manifest)
    point(models, manifest)
    return open_bundle(bundle_path(models, manifest.bundle_id))


def _experiment(name: str) -> Experiment:
    if name == LSTM["name"]:
        return Experiment.model_validate(LSTM)
    (experiment,) = read_experiments(environment.REPO / "experiments" / f"{name}.json")
    return experiment


def _split_rows(x: Array, y: Labels, classes: tuple[str, ...]) -> list[SplitRow]:
    """Return the rows of split.csv: all samples are test samples."""
    return [
        SplitRow("test", row, classes[label], f"row {row}", content_sha256(array).hex())
        for row, (array, label) in enumerate(zip(x, y, strict=True))
    ]
