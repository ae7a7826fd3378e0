"""An experiment: one JSON file that says everything about a training, validated before anything starts.

    {"name": "digits_cnn",
     "data": {"name": "digits", "validation": 0.15, "test": 0.2},
     "layers": [{"layer": "Rescaling", "scale": 0.0625}, ..., {"layer": "Dense", "units": 10, "activation": "softmax"}],
     "optimizer": {"name": "Adam", "learning_rate": 0.001},
     "loss": "sparse_categorical_crossentropy",
     "epochs": 30, "batch_size": 32, "early_stopping": {"monitor": "val_loss", "patience": 5}, "seed": 0}

A layer or an optimizer takes any argument that Keras's class of that name takes. The parsed experiment goes unchanged
to the manifest and to the tracker: what is logged is what was trained.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bundle.layers import ALLOWED_LAYERS, suggest
from bundle.manifest import Dtype
from bundle.record import explain
from pyml import PymlError

# With "-", 12 hexadecimal digits and a re-run's number behind it, it is still a name for a bundle.
ExperimentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
Loss = Literal["sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy"]
Fraction = Annotated[FiniteFloat, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes

OPTIMIZERS = frozenset("SGD RMSprop Adam AdamW Adadelta Adagrad Adamax Adafactor Nadam Ftrl Lion Lamb Muon".split())


class Part(BaseModel):
    """Base of all parts of an experiment: immutable, no silent conversion, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, value: Any) -> Any:
        if isinstance(value, dict) and cls.model_config.get("extra") == "forbid":
            for key in value:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(cls.model_fields)}"
                    raise PydanticCustomError("unknown_key", "unknown key {key}, {hint}", {"key": key, "hint": hint})
        return value


class KerasPart(Part):
    """A part whose further keys are arguments of a Keras class; Keras itself judges them when the model is built."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, JsonValue]

    @property
    def arguments(self) -> dict[str, JsonValue]:
        """Keras's arguments as they stand in the file."""
        return self.__pydantic_extra__


class Data(Part):
    """Which data set, and which fractions of it validate and test; the rest trains."""

    name: Literal["digits"]
    validation: Fraction
    test: Fraction
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise PydanticCustomError("no_training", "validation + test must leave something to train on (below 1)")
        return self


class Layer(KerasPart):
    """One layer of the model, by the name of its Keras class."""

    layer: str

    @field_validator("layer")
    @classmethod
    def _be_allowed(cls, name: str) -> str:
        if name not in ALLOWED_LAYERS:
            raise PydanticCustomError(
                "unknown_layer",
                "unknown layer {name}{hint}",
                {"name": name, "hint": suggest(name) or ", see bundle/layers.py for the allowed ones"},
            )
        return name

    def __str__(self) -> str:
        """Show it as a person would write it in Python."""
        return f"{self.layer}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


class Optimizer(KerasPart):
    """A Keras optimizer by the name of its class."""

    name: str
    learning_rate: Annotated[FiniteFloat, Field(gt=0)]

    @field_validator("name")
    @classmethod
    def _be_known(cls, name: str) -> str:
        if name not in OPTIMIZERS:
            raise PydanticCustomError(
                "unknown_optimizer",
                "unknown optimizer {name}, known are {known}",
                {"name": name, "known": ", ".join(sorted(OPTIMIZERS))},
            )
        return name


class EarlyStopping(Part):
    """Stop when the validation figure has not improved for `patience` epochs. The best epoch is kept in any case."""

    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"
    patience: Positive


class Experiment(Part):
    """Everything that decides what is trained."""

    name: ExperimentName
    data: Data
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, strict=False)]  # JSON has arrays only
    optimizer: Optimizer
    loss: Loss
    epochs: Positive
    batch_size: Positive
    early_stopping: EarlyStopping | None = None
    seed: Seed = 0


def read_experiment(path: Path) -> Experiment:
    """Read and validate an experiment file. Raises PymlError: one sentence with the file, the place and the need."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise PymlError(f"{path} cannot be read ({error.strerror}); an experiment file is needed") from error
    try:
        return Experiment.model_validate_json(text)
    except ValidationError as error:
        raise PymlError(f"{path} is not a valid experiment: {explain(error)}") from error


def check_fits(experiment: Experiment, n_classes: int, dtype: Dtype) -> None:
    """Refuse what Keras would train without complaint and without sense.

    The last layer must give what the loss and n_classes ask for, and uint8 images need a Rescaling first.
    """
    units, activation = (1, "sigmoid") if experiment.loss == "binary_crossentropy" else (n_classes, "softmax")
    if units == 1 and n_classes != 2:
        raise PymlError(
            f"experiment {experiment.name}: loss {experiment.loss} needs 2 classes, {experiment.data.name} has "
            f"{n_classes}; use sparse_categorical_crossentropy"
        )
    last = experiment.layers[-1]
    found = (last.layer, last.arguments.get("units"), last.arguments.get("activation"))
    if found != ("Dense", units, activation):
        raise PymlError(
            f"experiment {experiment.name}: the last layer is {last}, loss {experiment.loss} on {n_classes} classes "
            f"needs Dense(units={units}, activation={activation!r})"
        )
    first = experiment.layers[0]
    if dtype == "uint8" and first.layer != "Rescaling":
        raise PymlError(
            f"experiment {experiment.name}: the first layer is {first}, raw uint8 images need Rescaling first, "
            "so that training and serving cannot disagree"
        )
