"""`manifest.json`, the description of a bundle. Trainer and predict service validate it with the same class.

`prep_sha256` is a hash of the preparation of one input (preprocessing, dtype, shape). A model may predict an input only
when the two have the same hash.
"""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AwareDatetime, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from bundle import BundleError
from bundle.document import Document, FewKeys, Name, Sha256, Storable, explain, read_bounded, sha256_of_json
from bundle.inputs.files import MAX_CLASS_NAME
from bundle.inputs.preprocessing import Preprocessing

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_VALUES = 1_200_000  # of a manifest; the largest part is the confusion matrix
MAX_CLASSES = 1_000  # the confusion matrix of so many classes has 9 MB
MAX_INPUT_BYTES = 64 * 2**20 - 1024  # of one input; with the header of a .npy file it fits into one stored payload
MAX_TEST_SET_BYTES = 512 * 2**20  # of x and y in memory, where the file is, too
MODEL_FILE, MANIFEST_FILE, TEST_SET_FILE = "model.h5", "manifest.json", "test_set.npz"
SERVING_FILE = "model.tflite"  # converted from model.h5; the file that predicts
PREDICTIONS_FILE, VOCABULARY_FILE = "predictions.csv", "vocabulary.json"  # the vocabulary only when inputs are texts
HISTORY_FILE = "history.json"  # the metrics of each epoch
CONFUSION_FILE, ROC_FILE, PRECISION_RECALL_FILE = "confusion.png", "roc.png", "precision_recall.png"
DIFF_FILE = "diff.patch"  # the uncommitted changes, only when there are some
SPLIT_FILE = "split.csv"  # the part of each sample: train, validation or test (bundle.split)

# A reader accepts files of at most so many bytes. It holds some of them in memory.
MAX_BYTES = {
    MODEL_FILE: 2**30,
    SERVING_FILE: 512 * 2**20,
    TEST_SET_FILE: MAX_TEST_SET_BYTES,
    SPLIT_FILE: 128 * 2**20,
    PREDICTIONS_FILE: 512 * 2**20,  # its hash is checked, no service holds it in memory
    VOCABULARY_FILE: 16 * 2**20,
}
MAX_OTHER_BYTES = 64 * 2**20
MAX_FILES = 32

Dtype = Literal["uint8", "int32", "float32"]


class InputSpec(Document):
    """Dtype and shape of one sample of the model, without the batch axis."""

    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(fail_fast=True, min_length=1, max_length=8)]

    @property
    def n_bytes(self) -> int:
        """The size of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.n_bytes > MAX_INPUT_BYTES:
            raise PydanticCustomError(
                "input_size",
                "one input has {n} bytes, at most {most} are stored; smaller inputs are needed",
                {"n": self.n_bytes, "most": MAX_INPUT_BYTES},
            )
        return self

    def __str__(self) -> str:
        """Describe it for a person."""
        return f"{self.dtype} of shape {self.shape}"


class FileEntry(Document):
    """A file of the bundle; size in bytes."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class GitState(Document):
    """The commit of the training, and whether there were uncommitted changes; None: unknown."""

    commit: str | None = None
    dirty: bool | None = None


class Serving(Document):
    """How the model predicts. rows: the numbers of rows that a call may have; None: any number."""

    runtime: Literal["litert"] = "litert"
    rows: Annotated[tuple[int, ...], Field(fail_fast=True, max_length=8)] | None


class TrackedRun(Document):
    """Where the Weights & Biases run of the training is."""

    mode: Literal["online", "offline", "disabled"]
    id: str | None = None
    url: str | None = None
    directory: str | None = None


class ClassMetrics(Document):
    """Metrics of one class against all others; n samples of the test set have this class. None: not defined."""

    n: Annotated[int, Field(ge=0)]
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    average_precision: float | None


class Metrics(Document):
    """Metrics on the test set. accuracy = n_correct / n, as IEEE double; loss is the mean of the trained loss.

    The other metrics are means over the classes in the test set, with equal weights. auroc and average_precision
    compare one class with all others; gini = 2 auroc - 1. None: the metric is not defined, for example the recall of a
    class that is not in the test set. per_class and confusion (row: the label; column: the prediction) are in the
    order of the manifest's classes.
    """

    n: Annotated[int, Field(ge=1)]
    n_correct: Annotated[int, Field(ge=0)]
    accuracy: float
    loss: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    auroc: float | None = None
    gini: float | None = None
    average_precision: float | None = None
    per_class: Annotated[tuple[ClassMetrics, ...], Field(fail_fast=True, max_length=MAX_CLASSES)] = ()
    confusion: Annotated[
        tuple[Annotated[tuple[int, ...], Field(fail_fast=True, max_length=MAX_CLASSES)], ...],
        Field(fail_fast=True, max_length=MAX_CLASSES),
    ] = ()


Classes = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_CLASS_NAME)], ...],
    Field(fail_fast=True, min_length=2, max_length=MAX_CLASSES),
    Storable,
]


class Manifest(Document):
    """The content of manifest.json: how to prepare inputs, how the model was trained, and the hash of each file."""

    format_version: Literal[2] = 2
    bundle_id: Name
    name: Name
    dataset: Name
    task: Literal["classification"] = "classification"
    input: InputSpec
    classes: Classes
    preprocessing: Preprocessing
    serving: Serving
    experiment: dict[str, JsonValue]
    data_sha256: Sha256  # of all three splits
    test_sha256: Sha256  # of the test set: two accuracies can be compared only when it is equal
    metrics: Metrics
    best_epoch: Annotated[int, Field(ge=1)]
    epochs_trained: Annotated[int, Field(ge=1)]
    train_seconds: float
    parameters: int
    seed: int
    git: GitState
    versions: Annotated[dict[str, str], FewKeys]
    machine: str = "unknown"  # kind of processor and memory; train_seconds depends on it
    tracked_run: TrackedRun
    created_at: AwareDatetime
    files: Annotated[dict[str, FileEntry], FewKeys, Field(max_length=MAX_FILES)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        check_test_set(self.metrics.n, self.input)
        for name, entry in self.files.items():
            most = MAX_BYTES.get(name, MAX_OTHER_BYTES)
            if entry.size > most:
                said = {"name": name[:MAX_CLASS_NAME], "n": entry.size, "most": most}
                raise PydanticCustomError("file_size", "{name} has {n} bytes, at most {most} are read", said)
        return self

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        n, per_class, rows = len(self.classes), self.metrics.per_class, self.metrics.confusion
        if len(per_class) not in (0, n) or (rows and {len(rows), *map(len, rows)} != {n}):
            raise PydanticCustomError("counts", "the metrics are not those of {n} classes", {"n": n})
        if self.metrics.n_correct > self.metrics.n or (per_class and sum(one.n for one in per_class) != self.metrics.n):
            raise PydanticCustomError("sum", "the metrics are not those of {n} samples", {"n": self.metrics.n})
        return self

    @property
    def prep_sha256(self) -> str:
        """Hash of the preparation of one input: preprocessing, dtype and shape."""
        return sha256_of_json({"preprocessing": self.preprocessing.model_dump(), "input": self.input.model_dump()})


def check_test_set(n: int, spec: InputSpec) -> None:
    """Check that a reader can hold n test samples and their labels in memory. Raises PydanticCustomError."""
    n_bytes = n * (spec.n_bytes + 8)  # a label has 8 bytes
    if n_bytes > MAX_TEST_SET_BYTES:
        raise PydanticCustomError(
            "test_set_size",
            "the test set has {n} bytes, at most {most} are read; use fewer test samples, or smaller ones",
            {"n": n_bytes, "most": MAX_TEST_SET_BYTES},
        )


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest file.

    Raises BundleError when it is missing, not a regular file, larger than 16 MiB, not JSON, of another format version,
    incomplete, or when it holds what cannot be stored.
    """
    try:
        text = read_bounded(path, MAX_MANIFEST_BYTES)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); a bundle needs its manifest") from error
    if text.count(b",") > MAX_VALUES:
        raise BundleError(f"{path} holds more than {MAX_VALUES} values; a manifest holds fewer")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path} is not a valid manifest: {explain(error)}") from error
    return manifest
