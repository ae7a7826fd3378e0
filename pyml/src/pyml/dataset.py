"""The data set of an experiment: raw arrays, split into training, validation and test.

Splits are stratified and disjoint by content: a sample that also stands in the test set is dropped from validation and
training, one that stands in validation is dropped from training. The test set stays whole.
"""

import hashlib
import math
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.manifest import InputSpec
from bundle.preprocessing import ArrayPreprocessing
from pyml import PymlError
from pyml.experiment import Data


@dataclass(frozen=True)
class Split:
    """x: (n, *input.shape) in the input's dtype, raw. y: (n,) int64, numbers into the classes."""

    x: npt.NDArray[np.generic]
    y: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """What a model is trained, chosen and judged on."""

    name: str
    classes: tuple[str, ...]
    preprocessing: ArrayPreprocessing
    input: InputSpec
    train: Split
    validation: Split
    test: Split

    @property
    def fingerprint(self) -> str:
        """sha256 of class names, dtypes, shapes and bytes of all arrays: the same only if training sees the same."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.validation, self.test):
            for array in (split.x, split.y):
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_dataset(data: Data) -> Dataset:
    """Load and split the data set. Raises PymlError when the fractions do not fit it."""
    x, y = _load_digits()
    classes = tuple(str(digit) for digit in range(10))
    train, validation, test = split(x, y, data)
    spec = InputSpec(dtype="uint8", shape=x.shape[1:])
    return Dataset(data.name, classes, ArrayPreprocessing(), spec, train, validation, test)


def split(x: npt.NDArray[np.generic], y: npt.NDArray[np.int64], data: Data) -> tuple[Split, Split, Split]:
    """Split n samples into training, validation and test, each with the classes in equal shares."""
    from sklearn.model_selection import train_test_split

    def take(samples: npt.NDArray[np.int64], n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        rest, taken = train_test_split(samples, test_size=n, stratify=y[samples], random_state=data.split_seed)
        return np.sort(rest), np.sort(taken)

    try:
        rest, test = take(np.arange(len(x)), math.ceil(data.test * len(x)))
        train, validation = take(rest, math.ceil(data.validation * len(x)))
    except ValueError as error:
        raise PymlError(
            f"{data.name} has {len(x)} samples of {len(np.unique(y))} classes, which cannot be split into "
            f"validation {data.validation} and test {data.test}: {error}"
        ) from error
    hashes = np.array([hashlib.sha256(np.ascontiguousarray(sample).tobytes()).hexdigest() for sample in x])
    validation = _without(validation, hashes, set(hashes[test]))
    train = _without(train, hashes, set(hashes[test]) | set(hashes[validation]))
    first, second, third = (Split(x[samples], y[samples]) for samples in (train, validation, test))
    return first, second, third


def _load_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Give scikit-learn's 1,797 real handwritten digits: (n, 8, 8, 1) uint8 with values 0..16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images[..., np.newaxis].astype(np.uint8), digits.target.astype(np.int64)


def _without(samples: npt.NDArray[np.int64], hashes: npt.NDArray[np.str_], unwanted: Set[str]) -> npt.NDArray[np.int64]:
    return samples[[hashes[sample] not in unwanted for sample in samples]]
