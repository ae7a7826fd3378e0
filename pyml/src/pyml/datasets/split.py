"""Split samples into training, validation and test set: stratified, disjoint by content, the same for the same seed.

Copies of test samples are dropped from validation and training set. Copies of validation samples are dropped from the
training set. The test set stays whole.
"""

import logging
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.messages import list_names
from bundle.split import content_sha256
from pyml import PymlError
from pyml.datasets.samples import Samples, parts
from pyml.experiment.data_spec import AnyData

log = logging.getLogger(__name__)

# Numbers as labels, at least so many different ones, and fewer samples for each: quantities, not classes.
MANY_CLASSES, FEW_SAMPLES = 20, 10

RowNumbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Row numbers of training, validation and test set, each in ascending order."""

    train: RowNumbers
    validation: RowNumbers
    test: RowNumbers


def split_rows(y: npt.NDArray[np.int64], data: AnyData, n_test: int = 0, classes: Sequence[str] = ()) -> Rows:
    """Split the rows of the labels y (n,), stratified: each split has the same share of each class. Raises PymlError.

    n_test: the number of rows at the end that are the official test set; 0 if data.test is the test set's fraction.
    """
    from sklearn.model_selection import train_test_split

    def take(rows: RowNumbers, n: int) -> tuple[RowNumbers, RowNumbers]:
        rest, taken = train_test_split(rows, test_size=n, stratify=y[rows], random_state=data.split_seed)
        return np.sort(rest), np.sort(taken)

    rows = np.arange(len(y))
    fraction: float = getattr(data, "test", None) or 0
    try:
        rest, test = (rows[:-n_test], rows[-n_test:]) if n_test else take(rows, math.ceil(fraction * len(rows)))
        train, validation = take(rest, math.ceil(data.validation * (len(rest) if n_test else len(rows))))
    except ValueError as error:
        shares = f"validation {data.validation}" + ("" if n_test else f" and test {fraction}")
        raise PymlError(_explain_failure(data.name, y, classes, shares)) from error
    return Rows(train, validation, test)


def _explain_failure(name: str, y: npt.NDArray[np.int64], classes: Sequence[str], shares: str) -> str:
    """Give the sentence that says why the labels cannot be split. scikit-learn's own message lists every class."""
    numbers, counts = np.unique(y, return_counts=True)
    names = [classes[number] if classes else str(number) for number in numbers]
    holds = f"{name} has {len(y)} samples of {len(names)} classes"
    if len(names) >= MANY_CLASSES and len(y) < FEW_SAMPLES * len(names) and all(map(_is_number, names)):
        return (
            f"{holds}, all of them numbers ({names[0]}, {names[1]}, ...): this looks like regression, which is not "
            "supported; labels of a few classes are needed"
        )
    fewest = int(counts.argmin())
    return (
        f"{holds}, which cannot be split into {shares}: each split needs at least one sample of each class, and "
        f"{names[fewest]} has {counts[fewest]} in all"
    )


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def drop_copies(rows: Rows, hashes: Sequence[str]) -> Rows:
    """Drop validation samples that are in the test set, and training samples that are in either. hashes: by row."""
    validation = _without(rows.validation, hashes, {hashes[row] for row in rows.test})
    evaluated = {hashes[row] for part in (rows.test, validation) for row in part}
    kept = Rows(_without(rows.train, hashes, evaluated), validation, rows.test)
    dropped = len(rows.train) - len(kept.train) + len(rows.validation) - len(kept.validation)
    if dropped:
        log.info(
            "%d samples are left out: after preparation they equal a sample of the test or validation set", dropped
        )
    return kept


def content_hashes(x: Samples) -> list[str]:
    """Give the hash of each sample, as hexadecimal text."""
    return [content_sha256(sample).hex() for part in parts(x) for sample in part]


def check_learnable(rows: Rows, y: npt.NDArray[np.int64], classes: Sequence[str], name: str) -> None:
    """Raise PymlError if a class has no training sample left, or if no validation sample is left."""
    if not len(rows.validation):
        raise PymlError(f"{name}: every validation sample is a copy of a test sample")
    trained = set(y[rows.train].tolist())
    absent = [label for number, label in enumerate(classes) if number not in trained]
    if absent:
        raise PymlError(
            f"{name}: no training sample of {list_names(absent)} is left; each class needs some that are no "
            "copies of test or validation samples"
        )


def _without(rows: RowNumbers, hashes: Sequence[str], unwanted: Set[str]) -> RowNumbers:
    return rows[[hashes[row] not in unwanted for row in rows]]
