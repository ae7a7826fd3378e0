"""An experiment: one JSON file that describes a whole training. It is validated before the training starts.

`data_spec` describes the `data` part. `grid` describes grids (a list in the place of one value). An example:

    {"name": "digits_cnn",
     "data": {"name": "digits", "validation": 0.15, "test": 0.2},
     "layers": [{"layer": "Rescaling", "scale": 0.0625}, ..., {"layer": "Dense", "units": 10, "activation": "softmax"}],
     "optimizer": {"name": "Adam", "learning_rate": 0.001},
     "loss": "sparse_categorical_crossentropy",
     "epochs": 30, "batch_size": 32, "early_stopping": {"monitor": "val_loss", "patience": 5}, "seed": 0}

A layer or an optimizer takes every argument of the Keras class of the same name. The manifest and the tracker get the
parsed experiment unchanged, so the logged experiment is the trained experiment.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bundle.document import NAME_START, check_storable, explain
from bundle.manifest import Dtype
from bundle.messages import did_you_mean, one_line, shorten
from bundle.regular_file import open_regular
from pyml import PymlError
from pyml.experiment.data_spec import Data, Part, Positive, Seed
from pyml.experiment.gate import Gate
from pyml.experiment.grid import GridError, expand_grid
from pyml.experiment.layers import ALLOWED_LAYERS, ALLOWED_OBJECTS, UNSUPPORTED, WRAPPERS

# Short enough that a bundle id is a valid file name: the name, "-", 12 hexadecimal digits and the number of a rerun.
ExperimentName = Annotated[str, StringConstraints(pattern=NAME_START + "{0,79}$")]
Loss = Literal["sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy"]
Metric = Literal["accuracy", "AUC", "Precision", "Recall"]

MAX_FILE_BYTES = 16 * 2**20  # as large as a manifest, which holds it
OBJECT_KEYS = {"class_name", "config"}
OPTIMIZERS = frozenset("SGD RMSprop Adam AdamW Adadelta Adagrad Adamax Adafactor Nadam Ftrl Lion Lamb Muon".split())


def _names_other_code(value: JsonValue) -> bool:
    """Return whether a value holds an object, other than one of ALLOWED_OBJECTS with plain values."""
    if isinstance(value, dict) and value.keys() == OBJECT_KEYS and value["class_name"] in ALLOWED_OBJECTS:
        return not isinstance(value["config"], dict) or any(map(_holds_object, value["config"].values()))
    return _holds_object(value)


def _holds_object(value: JsonValue) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_object, value)))


class KerasPart(Part):
    """A part with arguments of a Keras class as further keys. Keras checks them when the model is built."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]

    @property
    def arguments(self) -> dict[str, JsonValue]:
        """Keras's arguments, as in the file."""
        return self.__pydantic_extra__

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        for name, value in self.arguments.items():
            if _names_other_code(value):
                raise PydanticCustomError(
                    "object",
                    "the argument {name} is an object that is not allowed; a number, a text, a list, or for example "
                    '{{"class_name": "L2", "config": {{"l2": 0.01}}}} is needed',
                    {"name": shorten(name)},
                )
        return self


class Layer(KerasPart):
    """One layer of the model, by the name of its Keras class."""

    layer: str
    inner: "Layer | None" = None  # of Bidirectional and TimeDistributed: the layer that they apply

    @field_validator("layer")
    @classmethod
    def _check_layer(cls, name: str) -> str:
        if name in UNSUPPORTED:
            reason = {"name": name, "reason": UNSUPPORTED[name]}
            raise PydanticCustomError("unsupported_layer", "layer {name} is not supported: {reason}", reason)
        if name not in ALLOWED_LAYERS:
            hint = did_you_mean(name, ALLOWED_LAYERS, "pyml/experiment/layers.py lists the allowed layers")
            raise PydanticCustomError("unknown_layer", "unknown layer {name}, {hint}", {"name": name, "hint": hint})
        return name

    @model_validator(mode="after")
    def _check_normalization(self) -> Self:
        if self.layer == "Normalization" and not {"mean", "variance"} <= self.arguments.keys():
            raise PydanticCustomError(
                "normalization", "a Normalization layer does nothing without mean and variance; give both"
            )
        return self

    @model_validator(mode="after")
    def _check_inner(self) -> Self:
        wraps = self.layer in WRAPPERS
        if wraps != (self.inner is not None):
            raise PydanticCustomError(
                "inner",
                "the layer {layer} {says} another layer; {example}",
                {
                    "layer": self.layer,
                    "says": "applies" if wraps else "does not apply",
                    "example": 'give it as "inner": {"layer": "LSTM", "units": 32}' if wraps else "leave inner out",
                },
            )
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, dump: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        """Leave `inner` out where there is none."""
        return {key: value for key, value in dump(self).items() if key != "inner" or value is not None}

    def __str__(self) -> str:
        """Show the layer as in Python code."""
        arguments = [f"{key}={value!r}" for key, value in self.arguments.items()]
        if self.inner is not None:
            arguments.insert(0, str(self.inner))
        return f"{self.layer}({', '.join(arguments)})"


class Optimizer(KerasPart):
    """A Keras optimizer by the name of its class."""

    name: str
    learning_rate: Annotated[FiniteFloat, Field(gt=0)]

    @field_validator("name")
    @classmethod
    def _check_optimizer(cls, name: str) -> str:
        if name not in OPTIMIZERS:
            hint = did_you_mean(name, sorted(OPTIMIZERS))
            raise PydanticCustomError(
                "unknown_optimizer", "unknown optimizer {name}, {hint}", {"name": name, "hint": hint}
            )
        return name

    @model_validator(mode="after")
    def _check_averages(self) -> Self:
        if self.arguments.get("use_ema") and not self.arguments.get("ema_overwrite_frequency"):
            raise PydanticCustomError(
                "ema",
                "use_ema does nothing without ema_overwrite_frequency (steps until the averages replace the weights)",
            )
        return self


class EarlyStopping(Part):
    """Stop if the validation metric has not improved for `patience` epochs. The best epoch is always kept."""

    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"
    patience: Positive


class Experiment(Part):
    """A whole training: data, layers, optimizer, loss, epochs."""

    name: ExperimentName
    data: Data
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, strict=False)]  # JSON has arrays only
    optimizer: Optimizer
    loss: Loss
    metrics: Annotated[tuple[Metric, ...], Field(strict=False)] = ("accuracy",)
    epochs: Positive
    batch_size: Positive
    early_stopping: EarlyStopping | None = None
    deterministic: bool = True
    seed: Seed = 0
    promote_if: Gate | None = None

    @model_validator(mode="after")
    def _check_storable(self) -> Self:
        check_storable(self.model_dump(mode="json"))  # as in the manifest
        return self

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
        if "accuracy" not in metrics or len(set(metrics)) < len(metrics):
            raise PydanticCustomError("metrics", "name accuracy, and each metric only once")
        return metrics

    @model_validator(mode="after")
    def _check_metrics_fit_loss(self) -> Self:
        if self.loss == "sparse_categorical_crossentropy" and self.metrics != ("accuracy",):
            raise PydanticCustomError(
                "metrics",
                "the metrics AUC, Precision and Recall need one-hot labels: use loss categorical_crossentropy",
            )
        return self


def read_experiments(path: Path) -> list[Experiment]:
    """Read and validate an experiment file: one experiment, or the experiments of a grid.

    Raises PymlError: one sentence with the file, the place in it, and what is needed.
    """
    try:
        with open_regular(path) as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PymlError(f"{path} cannot be read ({error.strerror}); an experiment file is needed") from error
    if len(text) > MAX_FILE_BYTES:
        raise PymlError(f"{path} is larger than {MAX_FILE_BYTES} bytes; an experiment file is needed")
    try:
        document = json.loads(text, object_pairs_hook=_without_repetition)
        if isinstance(document, dict):
            document.pop("$schema", None)  # only editors use it
        points = expand_grid(document)
        return [_parse(path, point, len(points) > 1) for point in points]
    except (ValueError, RecursionError) as error:
        raise PymlError(f"{path} is not a valid experiment: {one_line(error)}") from error


def _parse(path: Path, document: Any, in_grid: bool) -> Experiment:
    try:
        return Experiment.model_validate_json(json.dumps(document, allow_nan=False))
    except ValidationError as error:
        point = f", {shorten(document['name'], 80)} of its grid," if in_grid else ""
        raise PymlError(f"{path}{point} is not a valid experiment: {explain(error)}") from error
    except ValueError as error:  # the manifest could not hold it
        raise PymlError(
            f"{path} is not a valid experiment: it holds NaN or infinity; finite numbers are needed"
        ) from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise GridError(f"the key {next(key for key in keys if keys.count(key) > 1)} occurs twice in one object")
    return found


def check_fits(experiment: Experiment, n_classes: int, dtype: Dtype, n_words: int | None = None) -> None:
    """Raise PymlError if the layers do not fit the data or the loss. Keras would train some of them without an error.

    The last layer must have the units and activation for the loss and n_classes. The first layer must be Rescaling for
    uint8 images, and an Embedding of at least n_words rows for token numbers.
    """
    units, activation = (1, "sigmoid") if experiment.loss == "binary_crossentropy" else (n_classes, "softmax")
    if units == 1 and n_classes != 2:
        raise PymlError(
            f"the loss {experiment.loss} needs 2 classes, {experiment.data.name} has {n_classes}; "
            "use sparse_categorical_crossentropy"
        )
    last = experiment.layers[-1]
    found = (last.layer, last.arguments.get("units"), last.arguments.get("activation"))
    if found != ("Dense", units, activation):
        raise PymlError(
            f"the last layer is {last}, the loss {experiment.loss} with {n_classes} classes "
            f"needs Dense(units={units}, activation={activation!r})"
        )
    first = experiment.layers[0]
    if dtype == "uint8" and first.layer != "Rescaling":
        raise PymlError(
            f"the first layer is {first}, raw uint8 images need Rescaling as the first layer, "
            "so that training and serving rescale alike"
        )
    if n_words is not None and (first.layer != "Embedding" or not _at_least(first.arguments.get("input_dim"), n_words)):
        raise PymlError(
            f"the first layer is {first}, token numbers of {n_words} words need "
            f"Embedding(input_dim={n_words}, ...) as the first layer"
        )


def _at_least(value: JsonValue, least: int) -> bool:
    return isinstance(value, int) and value >= least
