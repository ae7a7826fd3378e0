"""A dataset that is ready for training: raw samples, split into training, validation and test set, and classes."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from bundle.csv_rows import most_bytes
from bundle.document import explain
from bundle.inputs.preprocessing import Preprocessing, TextPreprocessing
from bundle.manifest import MAX_BYTES, PREDICTIONS_FILE, SPLIT_FILE, VOCABULARY_FILE, Classes, InputSpec, check_test_set
from bundle.split import SplitRow, write_split
from bundle.vocabulary import WORDS, encode_vocabulary
from pyml import PymlError
from pyml.datasets.samples import Samples, parts, select
from pyml.datasets.split import Rows, check_learnable, content_hashes, drop_copies

CLASSES: TypeAdapter[tuple[str, ...]] = TypeAdapter(Classes)
# The files that grow with the dataset, and what they hold.
LARGE_FILES = {SPLIT_FILE: "samples", PREDICTIONS_FILE: "test samples or classes", VOCABULARY_FILE: "words"}
HEADER_BYTES = 100  # of split.csv, and of predictions.csv without the names of the classes
PROBABILITY_CHARACTERS = 15  # of a float32 from 0 to 1 in predictions.csv


@dataclass(frozen=True)
class Split:
    """x: (n, *input.shape) in the input's dtype, raw. y: (n,) int64, indices into the classes."""

    x: Samples
    y: npt.NDArray[np.int64]
    sources: Sequence[str] = ()  # the origin of each sample: a file, a line or a row
    hashes: Sequence[str] = ()  # content_hashes of x


@dataclass(frozen=True)
class Dataset:
    """The samples for training, validation and test."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    input: InputSpec
    train: Split
    validation: Split
    test: Split
    words: Sequence[str] = ()  # texts only: the vocabulary by token number; only the first n_words have a number

    @property
    def n_words(self) -> int | None:
        """The count of token numbers; None if the samples are not texts."""
        return self.preprocessing.n_words if isinstance(self.preprocessing, TextPreprocessing) else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of class names, vocabulary, dtypes, shapes and bytes of all three splits.

        Two datasets with equal fingerprints give a training equal samples.
        """
        return self._sha256(self.train, self.validation, self.test)

    @functools.cached_property
    def test_sha256(self) -> str:
        """The sha256 of the test set alone. Metrics of two models are comparable only if it is equal."""
        return self._sha256(self.test)

    def _sha256(self, *splits: Split) -> str:
        digest = hashlib.sha256(repr((self.classes, tuple(self.words))).encode())
        for split in splits:
            for array in (split.x, split.y):
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                for part in parts(array):
                    digest.update(part.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Prepared:
    """All samples of a dataset, before the split. x, y and sources have the meaning that they have in Split."""

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    x: Samples
    y: npt.NDArray[np.int64]
    words: Sequence[str] = ()
    sources: Sequence[str] = ()  # empty: row numbers are used

    @property
    def origins(self) -> Sequence[str]:
        """The source of each sample, or its row number."""
        return self.sources or [f"row {row}" for row in range(len(self.y))]


def build_dataset(name: str, prepared: Prepared, rows: Rows) -> Dataset:
    """Make a dataset of the rows of training, validation and test set, without copies of test samples.

    Raises PymlError if too few samples are left without the copies, or if no bundle can hold the dataset.
    """
    x, y = prepared.x, prepared.y
    hashes = content_hashes(x)
    rows = drop_copies(rows, hashes)
    check_learnable(rows, y, prepared.classes, name)
    sources = prepared.origins
    train, validation, test = (
        Split(select(x, part), y[part], [sources[row] for row in part], [hashes[row] for row in part])
        for part in (rows.train, rows.validation, rows.test)
    )
    spec = check_publishable(name, prepared, len(test.y))
    return Dataset(name, prepared.classes, prepared.preprocessing, spec, train, validation, test, prepared.words)


def check_publishable(name: str, prepared: Prepared, n_test: int) -> InputSpec:
    """Check before the training what the manifest checks after it. Raises PymlError."""
    x, part = prepared.x, "one sample"
    try:
        spec = InputSpec.model_validate({"dtype": x.dtype.name, "shape": x.shape[1:]})
        check_test_set(n_test, spec)
        part = "the class names"
        CLASSES.validate_python(prepared.classes)
        part = "the vocabulary"
        WORDS.validate_python(list(prepared.words))
    except ValidationError as error:
        raise PymlError(f"dataset {name}: {explain(error, part)}") from error
    except PydanticCustomError as error:
        raise PymlError(f"dataset {name}: {error.message()}") from error
    for file, n_bytes in most_file_bytes(prepared, n_test).items():
        if n_bytes > MAX_BYTES[file]:
            raise PymlError(
                f"dataset {name}: {file} can have up to {n_bytes} bytes, at most {MAX_BYTES[file]} are read; "
                f"use fewer {LARGE_FILES[file]}"
            )
    return spec


def most_file_bytes(prepared: Prepared, n_test: int) -> dict[str, int]:
    """Give the most bytes that each file of LARGE_FILES can have after the training."""
    classes, n = prepared.classes, len(prepared.y)
    label_bytes = [most_bytes(name) for name in classes]
    split_row = sum(map(most_bytes, ("validation", str(n), "0" * 64)))
    n_labels = np.bincount(prepared.y, minlength=len(classes)).tolist()
    labels = sum(count * size for count, size in zip(n_labels, label_bytes, strict=True))
    number = most_bytes("0" * PROBABILITY_CHARACTERS)
    predictions_row = most_bytes(str(n_test)) + 2 * max(label_bytes) + (1 + len(classes)) * number
    return {
        SPLIT_FILE: HEADER_BYTES + n * split_row + labels + sum(map(most_bytes, prepared.origins)),
        PREDICTIONS_FILE: HEADER_BYTES + sum(size + len("p_") for size in label_bytes) + n_test * predictions_row,
        VOCABULARY_FILE: len(encode_vocabulary(prepared.words)),
    }


def save_split(path: Path, dataset: Dataset) -> None:
    """Write split.csv: the split, label and origin of each sample."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    write_split(
        path,
        (
            SplitRow(part, sample, dataset.classes[label], source, sha256)
            for part, split in splits.items()
            for sample, (label, source, sha256) in enumerate(zip(split.y, split.sources, split.hashes, strict=True))
        ),
    )
