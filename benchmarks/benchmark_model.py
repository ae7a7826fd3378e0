"""Publish Keras's mnist_convnet (34,826 parameters) with random weights: real speed, random predictions."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
from pyml.keras_library import start_keras
from pyml.training.conversion import convert_model

Array = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
DATASET, SHAPE, DIGITS = "bench", (28, 28, 1), tuple("0123456789")


def publish_model(models: Path, n_test: int = 1000) -> Bundle:
    """Publish the model and its pointer. The labels are its own predictions on noise, so its accuracy is 1."""
    start_keras()
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    stack = [
        keras.Input(SHAPE, dtype="uint8"),
        layers.Rescaling(1 / 255),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential(stack)
    x = np.random.default_rng(1).integers(0, 256, (n_test, *SHAPE), np.uint8)
    spec = InputSpec(dtype="uint8", shape=SHAPE)
    content = convert_model(model, spec)
    serving = start_model(content, spec, len(DIGITS))
    y = serving.predict(x).argmax(axis=1)
    manifest = Manifest(
        bundle_id="mnist_convnet",
        name="mnist_convnet",
        dataset=DATASET,
        input=spec,
        classes=DIGITS,
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
        write_split(staged / SPLIT_FILE, _split_rows(x, y))
        manifest = publish(staged, models, manifest)
    point(models, manifest)
    return open_bundle(bundle_path(models, manifest.bundle_id))


def _split_rows(x: Array, y: Labels) -> list[SplitRow]:
    """Return the rows of split.csv: all samples are test samples."""
    return [
        SplitRow("test", row, DIGITS[label], f"row {row}", content_sha256(array).hex())
        for row, (array, label) in enumerate(zip(x, y, strict=True))
    ]
