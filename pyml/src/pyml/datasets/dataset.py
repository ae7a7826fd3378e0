"""A dataset, ready to train on: raw samples, split into training, validation and test, and what they mean."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.inputs.preprocessing import Preprocessing, TextPreprocessing
from bundle.manifest import InputSpec
from bundle.split import SplitRow, write_split
from pyml.datasets.samples import Samples, parts, select
from pyml.datasets.split import Rows, check_learnable, content_hashes, drop_copies


@dataclass(frozen=True)
class Split:
    """x: (n, *input.shape) in the input's dtype, raw. y: (n,) int64, numbers into the classes."""

    x: Samples
    y: npt.NDArray[np.int64]
    sources: Sequence[str] = ()  # where each sample came from: a file, a line, a row
    hashes: Sequence[str] = ()  # content_hashes of x


@dataclass(frozen=True)
class Dataset:
    """What a model is trained, chosen and judged on."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    input: InputSpec
    train: Split
    validation: Split
    test: Split
    words: Sequence[str] = ()  # the vocabulary by token number, of texts only; it may hold more than have a number

    @property
    def n_words(self) -> int | None:
        """Count the token numbers, of texts only."""
        return self.preprocessing.n_words if isinstance(self.preprocessing, TextPreprocessing) else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of class names, vocabulary, dtypes, shapes and bytes: the same only if training sees the same."""
        return self._sha256(self.train, self.validation, self.test)

    @functools.cached_property
    def test_sha256(self) -> str:
        """The same of the test set alone: the same only if models are measured on the same."""
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
    """All samples of a dataset, before they are split; x, y and sources as in Split."""

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    x: Samples
    y: npt.NDArray[np.int64]
    words: Sequence[str] = ()
    sources: Sequence[str] = ()  # none: the rows' numbers


def gather(name: str, prepared: Prepared, rows: Rows) -> Dataset:
    """Make a dataset of the rows that train, validate and test, less the copies.

    Raises PymlError when the copies leave too little.
    """
    x, y = prepared.x, prepared.y
    hashes = content_hashes(x)
    rows = drop_copies(rows, hashes)
    check_learnable(rows, y, prepared.classes, name)
    sources = prepared.sources or [f"row {row}" for row in range(len(y))]
    train, validation, test = (
        Split(select(x, part), y[part], [sources[row] for row in part], [hashes[row] for row in part])
        for part in (rows.train, rows.validation, rows.test)
    )
    spec = InputSpec.model_validate({"dtype": x.dtype.name, "shape": x.shape[1:]})
    return Dataset(name, prepared.classes, prepared.preprocessing, spec, train, validation, test, prepared.words)


def save_split(path: Path, dataset: Dataset) -> None:
    """Write split.csv: which sample went where."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    write_split(
        path,
        (
            SplitRow(part, sample, dataset.classes[label], source, sha256)
            for part, split in splits.items()
            for sample, (label, source, sha256) in enumerate(zip(split.y, split.sources, split.hashes, strict=True))
        ),
    )
