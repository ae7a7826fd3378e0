"""Every layer that an experiment may name is trained a step, converted, served, and compared with Keras."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.inference.load import start_model
from bundle.inputs.preprocessing import ArrayPreprocessing
from bundle.manifest import SERVING_FILE, InputSpec
from pyml import PymlError
from pyml.datasets.dataset import Dataset, Split
from pyml.experiment.experiment import Experiment
from pyml.experiment.layers import ALLOWED_LAYERS
from pyml.keras_library import start_keras
from pyml.training.build_model import build_model, encode_labels
from pyml.training.model_file import write_model

Layers = list[dict[str, Any]]

IMAGE = InputSpec(dtype="uint8", shape=(8, 8, 3))
SEQUENCE = InputSpec(dtype="float32", shape=(12, 4))
VOLUME = InputSpec(dtype="float32", shape=(6, 6, 6, 2))
VECTOR = InputSpec(dtype="float32", shape=(7,))
TOKENS = InputSpec(dtype="int32", shape=(10,))
EMBEDDING = {"layer": "Embedding", "input_dim": 40, "output_dim": 4}


def layer(name: str, **arguments: Any) -> dict[str, Any]:
    return {"layer": name, **arguments}


ON_IMAGES = [
    layer("Normalization", mean=[0.5, 0.4, 0.3], variance=[0.1, 0.1, 0.2]),
    layer("Resizing", height=5, width=6),
    layer("Resizing", height=5, width=5, crop_to_aspect_ratio=True, interpolation="nearest"),
    layer("CenterCrop", height=4, width=4),
    layer("RandomFlip"),
    layer("RandomRotation", factor=0.1),
    layer("RandomZoom", height_factor=0.1),
    layer("RandomTranslation", height_factor=0.1, width_factor=0.1),
    layer("RandomContrast", factor=0.1),
    layer("Permute", dims=[2, 1, 3]),
    layer("SpatialDropout2D", rate=0.2),
    layer("BatchNormalization"),
    layer("LayerNormalization"),
    layer("GroupNormalization", groups=1),
    layer("UnitNormalization"),
    layer("Conv2D", filters=4, kernel_size=3, padding="same", dilation_rate=2),
    layer("Conv2D", filters=6, kernel_size=3, strides=2, activation="gelu", groups=3),
    layer("SeparableConv2D", filters=4, kernel_size=3),
    layer("DepthwiseConv2D", kernel_size=3),
    layer("Conv2DTranspose", filters=4, kernel_size=3, strides=2),
    layer("MaxPooling2D", padding="same"),
    layer("AveragePooling2D", pool_size=2),
    layer("GlobalMaxPooling2D"),
    layer("GlobalAveragePooling2D"),
    layer("ZeroPadding2D"),
    layer("Cropping2D"),
    layer("UpSampling2D"),
    layer("UpSampling2D", interpolation="bilinear"),
]
ON_SEQUENCES = [
    layer("Conv1D", filters=4, kernel_size=3, padding="causal", dilation_rate=2),
    layer("SeparableConv1D", filters=4, kernel_size=3),
    layer("DepthwiseConv1D", kernel_size=3),
    layer("Conv1DTranspose", filters=4, kernel_size=3, strides=2),
    layer("MaxPooling1D"),
    layer("AveragePooling1D", pool_size=2),
    layer("GlobalMaxPooling1D"),
    layer("GlobalAveragePooling1D"),
    layer("ZeroPadding1D"),
    layer("Cropping1D"),
    layer("UpSampling1D"),
    layer("SpatialDropout1D", rate=0.2),
    layer("Masking"),
    layer("SimpleRNN", units=4),
    layer("LSTM", units=4),
    layer("LSTM", units=4, dropout=0.2, recurrent_dropout=0.2, return_sequences=True, go_backwards=True),
    layer("GRU", units=4, reset_after=False),
    layer("Bidirectional", inner=layer("LSTM", units=3, dropout=0.2)),
    layer("TimeDistributed", inner=layer("Dense", units=3)),
]
ON_VOLUMES = [
    layer("Conv3D", filters=3, kernel_size=2),
    layer("GlobalMaxPooling3D"),
    layer("GlobalAveragePooling3D"),
]
ACTIVATIONS = (
    "relu sigmoid softmax softplus softsign tanh selu elu exponential leaky_relu relu6 silu hard_silu gelu "
    "hard_sigmoid linear mish log_softmax celu squareplus soft_shrink sparse_plus"
)
ON_VECTORS = [
    layer("Reshape", target_shape=[7, 1]),
    layer("RepeatVector", n=3),
    *(layer("Activation", activation=name) for name in ACTIVATIONS.split()),
    layer("ReLU", max_value=6.0),
    layer("LeakyReLU"),
    layer("PReLU"),
    layer("ELU"),
    layer("Softmax"),
    layer("Dropout", rate=0.2),
    layer("GaussianNoise", stddev=0.1),
    layer("GaussianDropout", rate=0.2),
    layer("AlphaDropout", rate=0.2),
    layer("ActivityRegularization", l2=0.01),
    layer("Dense", units=4),
]
CASES: list[tuple[InputSpec, Layers]] = [
    *((IMAGE, [layer("Rescaling", scale=1 / 255), one]) for one in ON_IMAGES),
    *((SEQUENCE, [one]) for one in ON_SEQUENCES),
    *((VOLUME, [one]) for one in ON_VOLUMES),
    *((VECTOR, [one]) for one in ON_VECTORS),
    (SEQUENCE, [layer("Masking"), layer("LSTM", units=4)]),
    (TOKENS, [EMBEDDING]),
    (TOKENS, [{**EMBEDDING, "mask_zero": True}, layer("GRU", units=4)]),
]


def name_of(value: object) -> str:
    return "-".join(one["layer"] + str(one.get("activation", "")) for one in value) if isinstance(value, list) else ""


def dataset_of(spec: InputSpec) -> Dataset:
    rng = np.random.default_rng(0)
    shape = (130, *spec.shape)
    x = rng.random(shape, np.float32) if spec.dtype == "float32" else rng.integers(0, 40, shape).astype(spec.dtype)
    split = Split(x, rng.integers(0, 3, 130))
    return Dataset("random", ("a", "b", "c"), ArrayPreprocessing(), spec, split, split, split)


def experiment_of(layers: Layers) -> Experiment:
    last = [layer("Flatten"), layer("Dense", units=3, activation="softmax")]
    return Experiment.model_validate(
        {
            "name": "layers",
            "data": {"name": "digits", "validation": 0.15, "test": 0.2},
            "layers": [*layers, *last],
            "optimizer": {"name": "Adam", "learning_rate": 0.01},
            "loss": "sparse_categorical_crossentropy",
            "epochs": 1,
            "batch_size": 130,
        }
    )


def test_the_cases_name_every_allowed_layer() -> None:
    assert {one["layer"] for _, layers in CASES for one in layers} | {"InputLayer", "Flatten"} == ALLOWED_LAYERS


@pytest.mark.parametrize(("spec", "layers"), CASES, ids=name_of)
def test_a_layer_is_trained_converted_and_served(spec: InputSpec, layers: Layers, tmp_path: Path) -> None:
    start_keras()
    experiment, dataset = experiment_of(layers), dataset_of(spec)
    model = build_model(experiment, dataset)
    x, y = np.asarray(dataset.train.x[:]), dataset.train.y
    before = model.predict_on_batch(x)
    model.fit(x, encode_labels(y, experiment.loss, 3), epochs=1, verbose=0)

    served = write_model(model, tmp_path, dataset, dataset.test).probabilities

    assert np.abs(served - model.predict_on_batch(x)).max() <= 2e-6
    assert np.abs(served - before).max() > 1e-5  # it was trained
    alone = start_model((tmp_path / SERVING_FILE).read_bytes(), spec, 3)
    for rows in (1, 2, 3, 64, 65, 130):
        assert alone.predict(x[:rows]).tobytes() == served[:rows].tobytes()


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({"interpolation": "bicubic"}, "ResizeBicubic"), ({"antialias": True}, "ScaleAndTranslate")],
)
def test_a_layer_that_litert_cannot_run_is_refused(changes: dict[str, Any], missing: str, tmp_path: Path) -> None:
    start_keras()
    layers = [layer("Rescaling", scale=1 / 255), layer("Resizing", height=5, width=5, **changes)]
    dataset = dataset_of(IMAGE)
    model = build_model(experiment_of(layers), dataset)
    with pytest.raises(PymlError, match=f"cannot be served: LiteRT has no {missing}; use another layer"):
        write_model(model, tmp_path, dataset, dataset.test)
