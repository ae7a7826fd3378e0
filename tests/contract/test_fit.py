"""Fit a model: it learns with each loss, and the best epoch is kept."""

import math
from typing import Any

import numpy as np
import pytest
from support.trainings import TINY, experiment

from bundle.inputs.preprocessing import ArrayPreprocessing
from bundle.manifest import TrackedRun
from pyml.config import Settings
from pyml.datasets.dataset import Dataset, Split
from pyml.datasets.load import load_dataset
from pyml.evaluation.metrics import evaluate
from pyml.keras_library import start_keras
from pyml.tracking.tracker import Tracker
from pyml.training.build_model import build_model
from pyml.training.fit import fit_model
from pyml.training.model_file import predict_split
from pyml.training.seed import seed_everything

DISABLED = Tracker(None, TrackedRun(mode="disabled"))


@pytest.fixture(scope="module")
def two_digits() -> Dataset:
    """Only zeros and ones, so that all three losses can be used."""
    start_keras()
    digits = load_dataset(experiment().data, Settings())

    def only_two(part: Split) -> Split:
        rows = np.flatnonzero(part.y < 2)
        return Split(part.x[rows], part.y[rows])

    return Dataset(
        "digits",
        ("0", "1"),
        ArrayPreprocessing(),
        digits.input,
        train=only_two(digits.train),
        validation=only_two(digits.validation),
        test=only_two(digits.test),
    )


@pytest.mark.parametrize(
    ("loss", "last"),
    [
        ("sparse_categorical_crossentropy", {"units": 2, "activation": "softmax"}),
        ("categorical_crossentropy", {"units": 2, "activation": "softmax"}),
        ("binary_crossentropy", {"units": 1, "activation": "sigmoid"}),
    ],
)
def test_a_model_learns_with_each_loss(two_digits: Dataset, loss: str, last: dict[str, Any]) -> None:
    learning = experiment(loss=loss, layers=[*TINY["layers"][:-1], {"layer": "Dense", **last}], epochs=8)
    seed_everything(0)
    model = build_model(learning, two_digits)
    fit_model(model, learning, two_digits, DISABLED.callbacks())
    metrics = evaluate(predict_split(model, two_digits.test, 2), two_digits.test.y)
    assert metrics.accuracy > 0.95
    assert metrics.loss < 0.5 * math.log(2)


class WeightDestroyer(Tracker):
    """Destroy the weights from the fifth epoch on, and record the validation loss of each epoch."""

    def __init__(self) -> None:
        super().__init__(None, TrackedRun(mode="disabled"))
        self.val_losses: list[float] = []

    def callbacks(self) -> list[Any]:
        import keras

        destroyer = self

        class DestroyWeights(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                if epoch == 4:
                    self.model.optimizer.learning_rate = 100.0

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                destroyer.val_losses.append(logs["val_loss"])

        return [DestroyWeights()]


@pytest.mark.parametrize(
    ("early_stopping", "epochs"), [(None, 10), ({"patience": 3}, 7)], ids=["to the end", "stopped early"]
)
def test_the_best_epoch_is_kept(two_digits: Dataset, early_stopping: dict[str, Any] | None, epochs: int) -> None:
    layers = [*TINY["layers"][:-1], {"layer": "Dense", "units": 2, "activation": "softmax"}]
    sgd = {"name": "SGD", "learning_rate": 0.1}
    diverging = experiment(layers=layers, optimizer=sgd, epochs=10, early_stopping=early_stopping)
    seed_everything(0)
    model, destroyer = build_model(diverging, two_digits), WeightDestroyer()
    fit = fit_model(model, diverging, two_digits, destroyer.callbacks())
    best = min(destroyer.val_losses)
    kept, _ = model.evaluate(two_digits.validation.x, two_digits.validation.y, verbose=0)
    assert kept == pytest.approx(best, abs=1e-5)
    assert fit.best_epoch == destroyer.val_losses.index(best) + 1 == 4
    assert fit.epochs == epochs
