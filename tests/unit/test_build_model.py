"""Build the Keras model of an experiment: labels for the loss, and errors of Keras in one sentence."""

from typing import Any

import numpy as np
import pytest

from bundle.inputs.preprocessing import ArrayPreprocessing
from bundle.manifest import InputSpec
from pyml import PymlError
from pyml.datasets.dataset import Dataset, Split
from pyml.experiment.experiment import Experiment
from pyml.keras_library import start_keras
from pyml.training.build_model import build_model, encode_labels

EMPTY = Split(np.empty((0, 8, 8, 1), np.uint8), np.empty(0, np.int64))
DATASET = Dataset(
    "digits",
    tuple("0123456789"),
    ArrayPreprocessing(),
    InputSpec(dtype="uint8", shape=(8, 8, 1)),
    EMPTY,
    EMPTY,
    EMPTY,
)
LAST = {"layer": "Dense", "units": 10, "activation": "softmax"}


def experiment(*between: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "tiny",
            "data": {"name": "digits", "validation": 0.15, "test": 0.2},
            "layers": [{"layer": "Rescaling", "scale": 0.0625}, *between, LAST],
            "optimizer": {"name": "Adam", "learning_rate": 0.01},
            "loss": "sparse_categorical_crossentropy",
            "epochs": 3,
            "batch_size": 32,
            **changes,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _keras() -> None:
    start_keras()


def test_sparse_labels_stay_integers() -> None:
    y = np.array([2, 0])
    assert encode_labels(y, "sparse_categorical_crossentropy", 3).tolist() == [2, 0]


def test_categorical_labels_become_one_hot() -> None:
    encoded = encode_labels(np.array([2, 0]), "categorical_crossentropy", 3)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_binary_labels_become_a_column() -> None:
    encoded = encode_labels(np.array([1, 0]), "binary_crossentropy", 2)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[1], [0]]


def test_the_model_takes_raw_samples() -> None:
    model = build_model(experiment({"layer": "Flatten"}), DATASET)
    assert model.inputs[0].dtype == "uint8"
    assert model.predict_on_batch(np.full((3, 8, 8, 1), 16, np.uint8)).shape == (3, 10)


def test_two_models_of_an_experiment_have_the_same_layer_names() -> None:
    first, second = (build_model(experiment({"layer": "Flatten"}), DATASET) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


@pytest.mark.parametrize(
    ("between", "said"),
    [
        ([{"layer": "Flatten", "flat": True}], r"layers\.1, Flatten\(flat=True\): Unrecognized keyword"),
        ([{"layer": "MaxPooling2D", "pool_size": 9}, {"layer": "Flatten"}], r"layers\.1, MaxPooling2D\(pool_size=9\)"),
        ([{"layer": "Cropping2D", "cropping": 4}, {"layer": "Flatten"}], r"layers\.1, Cropping2D\(cropping=4\)"),
        ([{"layer": "Flatten"}, {"layer": "LSTM", "units": 3}], r"layers\.2, LSTM\(units=3\)"),
        ([{"layer": "Activation", "activation": "relou"}], r"layers\.1, .*relou"),
        ([], r"output has shape \(8, 8, 10\) per sample, \(10,\) is needed"),
    ],
)
def test_an_error_of_keras_is_one_sentence_with_the_layer(between: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(PymlError, match=said) as raised:
        build_model(experiment(*between), DATASET)
    assert "\n" not in str(raised.value)


def test_an_unknown_optimizer_argument_is_named() -> None:
    optimizer = {"name": "SGD", "learning_rate": 0.1, "momentun": 0.9}
    with pytest.raises(PymlError, match=r"optimizer SGD: .*momentun"):
        build_model(experiment({"layer": "Flatten"}, optimizer=optimizer), DATASET)


def test_the_optimizer_has_the_arguments_of_the_experiment() -> None:
    optimizer = {"name": "SGD", "learning_rate": 0.5, "momentum": 0.75}
    model = build_model(experiment({"layer": "Flatten"}, optimizer=optimizer), DATASET)
    assert type(model.optimizer).__name__ == "SGD"
    assert float(model.optimizer.learning_rate) == 0.5
    assert model.optimizer.momentum == 0.75
