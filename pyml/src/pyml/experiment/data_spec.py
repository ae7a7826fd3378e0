"""The `data` part of an experiment file: the samples, their preparation, and the sizes of validation and test set.

A known dataset, by name. Its test set is a fraction (digits) or the official test set (the others):

    {"name": "digits", "validation": 0.15, "test": 0.2}
    {"name": "mnist", "validation": 0.1}                    fashion_mnist likewise
    {"name": "imdb", "validation": 0.1, "words": 5000, "length": 400}

Your own dataset, by path, with a new name. A relative path is searched in the data directory, then in the working
directory:

    {"name": "animals", "kind": "image-folder", "path": "animals", "height": 64, "width": 64, ...}
    {"name": "reviews", "kind": "text-csv", "path": "reviews.csv", "text_column": "text", "label_column": "label", ...}
    {"name": "mine", "kind": "npz", "path": "mine.npz", ...}            arrays x, y or x_train, y_train, x_test, y_test
    {"name": "mine", "kind": "npy", "path": "x.npy", "labels": "y.npy", ...}
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bundle.document import Name
from bundle.inputs.preprocessing import MAX_WORDS, RESERVED_WORDS
from bundle.messages import did_you_mean

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of numpy
Fraction = Annotated[FiniteFloat, Field(gt=0, lt=1)]
FilePath = Annotated[
    str, StringConstraints(min_length=1)
]  # not Path, which can change the text when it is written back
Pixels = Annotated[int, Field(ge=1, le=4096)]
Words = Annotated[int, Field(ge=len(RESERVED_WORDS) + 1, le=MAX_WORDS)]  # with the reserved words, as Keras's num_words
Length = Annotated[int, Field(ge=1, le=100_000)]

NAMES = ("digits", "mnist", "fashion_mnist", "imdb")
T = TypeVar("T", bound="Part")
KINDS = ("image-folder", "text-csv", "npz", "npy")


class Part(BaseModel):
    """Base of all parts of an experiment: frozen, without type conversion; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and cls.model_config.get("extra") == "forbid":
            for key in value:
                if key not in cls.model_fields:
                    hint = did_you_mean(key, cls.model_fields)
                    raise PydanticCustomError("unknown_key", "unknown key {key}, {hint}", {"key": key, "hint": hint})
        return value


def _check_some_left(part: T, taken: float) -> T:
    if taken >= 1:
        raise PydanticCustomError("no_training", "validation + test must be below 1, so that training samples are left")
    return part


class OfficialTestSet(Part):
    """A dataset with an official test set. The rest is split into validation set (a fraction) and training set."""

    validation: Fraction
    split_seed: Seed = 0


class FractionTestSet(Part):
    """A dataset that is split by fractions into validation and test set. The rest is the training set."""

    validation: Fraction
    test: Fraction
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        return _check_some_left(self, self.validation + self.test)


class OwnData(Part):
    """The user's own dataset, by path."""

    name: Name
    path: FilePath

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in NAMES:
            raise PydanticCustomError(
                "taken_name", "{name} is the name of a known dataset; choose another for your own", {"name": name}
            )
        return name


class Digits(FractionTestSet):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels. They need no download."""

    name: Literal["digits"]


class Mnist(OfficialTestSet):
    """28 x 28 grayscale images of 10 digits or 10 kinds of clothing: 60,000 for training, 10,000 for the test."""

    name: Literal["mnist", "fashion_mnist"]


class Imdb(OfficialTestSet):
    """25,000 + 25,000 film reviews, negative or positive: their last `length` words, of the `words` most frequent."""

    name: Literal["imdb"]
    words: Words
    length: Length


class ImageFolder(OwnData, FractionTestSet):
    """A folder with one sub-folder of images per class. An image becomes (height, width, channels) uint8."""

    kind: Literal["image-folder"]
    height: Pixels
    width: Pixels
    color: Literal["grayscale", "rgb"] = "rgb"


class TextCsv(OwnData, FractionTestSet):
    """A CSV file with a header. The vocabulary is the `words` most frequent words of the training set."""

    kind: Literal["text-csv"]
    text_column: str = "text"
    label_column: str = "label"
    words: Words
    length: Length


class Npz(OwnData, OfficialTestSet):
    """Arrays x and y; or x_train, y_train, x_test and y_test, where x_test and y_test are the official test set."""

    kind: Literal["npz"]
    test: Fraction | None = None

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        return _check_some_left(self, self.validation + (self.test or 0))


class Npy(OwnData, FractionTestSet):
    """Samples in one .npy file, labels in another."""

    kind: Literal["npy"]
    labels: FilePath


def _check_known(value: Any) -> Any:
    if isinstance(value, Part):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("no_object", 'a dataset is an object, for example {"name": "digits", ...}')
    key, what, known = ("kind", "kind", KINDS) if "kind" in value else ("name", "dataset", NAMES)
    if key not in value:
        raise PydanticCustomError("no_name", "a dataset needs a name; known are {known}", {"known": ", ".join(NAMES)})
    if value[key] in known:
        return value
    by_path = f"known are {', '.join(NAMES)}; your own data needs a path and a kind: {', '.join(KINDS)}"
    hint = did_you_mean(value[key], known, by_path if key == "name" else None)
    raise PydanticCustomError(
        "unknown_data", "unknown {what} {given}, {hint}", {"what": what, "given": value[key], "hint": hint}
    )


def _tag(value: Any) -> str | None:
    given = value if isinstance(value, dict) else vars(value)
    tag = given.get("kind") or given.get("name")
    return "mnist" if tag == "fashion_mnist" else tag


AnyData = Digits | Mnist | Imdb | ImageFolder | TextCsv | Npz | Npy
Data = Annotated[
    Annotated[Digits, Tag("digits")]
    | Annotated[Mnist, Tag("mnist")]
    | Annotated[Imdb, Tag("imdb")]
    | Annotated[ImageFolder, Tag("image-folder")]
    | Annotated[TextCsv, Tag("text-csv")]
    | Annotated[Npz, Tag("npz")]
    | Annotated[Npy, Tag("npy")],
    Discriminator(_tag),
    BeforeValidator(_check_known),
]
