"""`manifest.json`, the description of a bundle. Trainer and predict service validate it with the same class.

`prep_sha256` is a hash of the preparation of one input (preprocessing, dtype, shape). A model may predict an input only
when the two have the same hash.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue, ValidationError

from bundle import BundleError
from bundle.document import Document, Name, Sha256, explain, sha256_of_json
from bundle.inputs.preprocessing import Preprocessing

MAX_MANIFEST_BYTES = 16 * 2**20
MODEL_FILE, MANIFEST_FILE, TEST_SET_FILE = "model.h5", "manifest.json", "test_set.npz"
SERVING_FILE = "model.tflite"  # converted from model.h5; the file that predicts
PREDICTIONS_FILE, VOCABULARY_FILE = "predictions.csv", "vocabulary.json"  # the vocabulary only when inputs are texts
HISTORY_FILE = "history.json"  # the metrics of each epoch
CONFUSION_FILE, ROC_FILE, PRECISION_RECALL_FILE = "confusion.png", "roc.png", "precision_recall.png"
DIFF_FILE = "diff.patch"  # the uncommitted changes, only when there are some
SPLIT_FILE = "split.csv"  # the part of each sample: train, validation or test (bundle.split)

Dtype = Literal["uint8", "int32", "float32"]


class InputSpec(Document):
    """Dtype and shape of one sample of the model, without the batch axis."""

    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=8)]

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
    rows: tuple[int, ...] | None


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
    per_class: tuple[ClassMetrics, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


class Manifest(Document):
    """The content of manifest.json: how to prepare inputs, how the model was trained, and the hash of each file."""

    format_version: Literal[2] = 2
    bundle_id: Name
    name: Name
    dataset: Name
    task: Literal["classification"] = "classification"
    input: InputSpec
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
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
    versions: dict[str, str]
    machine: str = "unknown"  # kind of processor and memory; train_seconds depends on it
    tracked_run: TrackedRun
    created_at: AwareDatetime
    files: dict[str, FileEntry] = Field(default_factory=dict)

    @property
    def prep_sha256(self) -> str:
        """Hash of the preparation of one input: preprocessing, dtype and shape."""
        return sha256_of_json({"preprocessing": self.preprocessing.model_dump(), "input": self.input.model_dump()})


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest file.

    Raises BundleError when it is missing, larger than 16 MiB, not JSON, of another format version or incomplete.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); a bundle needs its manifest") from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes; a manifest is smaller")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path} is not a valid manifest: {explain(error)}") from error
    return manifest
