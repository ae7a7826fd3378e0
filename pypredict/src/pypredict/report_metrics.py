"""The metrics of a report, with numpy alone, since the service has no scikit-learn; the tests compare both.

A class is compared with all other classes: `positive` (n,) says which inputs have it as label, `scores` (n,) is its
probability. None stands for a metric that is not defined, for example the recall of a class without an input.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
N_BINS = 10  # of the reliability diagram


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of one class; n inputs have it as label, n_predicted are predicted as it."""

    n: int
    n_predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Curve:
    """A curve from left to right, and the area that its name says: x and y (n,) from 0 to 1."""

    x: Floats
    y: Floats
    area: float


@dataclass(frozen=True)
class Bin:
    """The inputs whose confidence is in (low, high]: their number, mean confidence and accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class McNemar:
    """The inputs that only one of two models predicts right, and the two-sided p-value of the exact test."""

    only_first: int
    only_second: int
    p_value: float


def count_confusion(labels: Counts, predicted: Counts, n_classes: int) -> Counts:
    """Count how often each label (row) was predicted as each class (column); (n_classes, n_classes)."""
    pairs = np.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return pairs.reshape(n_classes, n_classes).astype(np.int64)


def score_classes(confusion: Counts) -> list[ClassScores]:
    """Compute precision, recall and F1 of each class. A class that is never predicted has precision 0."""
    scores = []
    for number, right in enumerate(confusion.diagonal().tolist()):
        n, n_predicted = int(confusion[number].sum()), int(confusion[:, number].sum())
        if n:
            precision = right / n_predicted if n_predicted else 0.0
            scores.append(ClassScores(n, n_predicted, precision, right / n, 2 * right / (n + n_predicted)))
        else:
            scores.append(ClassScores(n, n_predicted, None, None, None))
    return scores


def mean(values: list[float | None]) -> float | None:
    """Return the mean of the defined values; None when there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def roc_curve(positive: Bools, scores: Floats) -> Curve | None:
    """Draw the true positive rate (y) over the false positive rate (x), with AUROC; None without both kinds."""
    hits, misses = _counts_by_threshold(positive, scores)
    if not hits[-1] or not misses[-1]:
        return None
    x, y = np.append(0.0, misses / misses[-1]), np.append(0.0, hits / hits[-1])
    return Curve(x, y, float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)))


def precision_recall_curve(positive: Bools, scores: Floats) -> Curve | None:
    """Draw precision (y) over recall (x), with the average precision; None when no input has the class.

    The average precision is the sum of each precision times its step of the recall, as in scikit-learn.
    """
    hits, misses = _counts_by_threshold(positive, scores)
    if not hits[-1]:
        return None
    recall, precision = hits / hits[-1], hits / (hits + misses)
    area = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    return Curve(np.append(0.0, recall), np.append(1.0, precision), area)


def calibrate(confidence: Floats, right: Bools) -> list[Bin]:
    """Compare confidence with accuracy in ten bins of equal width; bins without an input are left out."""
    edges = np.linspace(0, 1, N_BINS + 1)
    places = np.searchsorted(edges[1:-1], confidence)
    bins = []
    for place in range(N_BINS):
        inside = places == place
        if inside.any():
            accuracy = float(right[inside].mean())
            mean_confidence = float(confidence[inside].mean())
            bins.append(Bin(float(edges[place]), float(edges[place + 1]), int(inside.sum()), mean_confidence, accuracy))
    return bins


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error: the mean of |accuracy - confidence|, weighted with the bins' inputs.

    Guo et al., On Calibration of Modern Neural Networks, 2017, equation 3.
    """
    return sum(one.n * abs(one.accuracy - one.confidence) for one in bins) / sum(one.n for one in bins)


def compare_mcnemar(only_first: int, only_second: int) -> McNemar:
    """Test whether two models have the same accuracy, by the inputs that only one of them predicts right.

    Exact and two-sided: without a difference, each such input is a fair coin. McNemar, Psychometrika 12, 1947; the
    exact form is the binomial test. Logarithms of factorials keep the sum finite for any number of inputs.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    logarithms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)
    ]
    return McNemar(only_first, only_second, min(1.0, 2 * math.fsum(map(math.exp, logarithms))))


def _counts_by_threshold(positive: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Count inputs with and without the class whose score reaches each distinct score, from the highest; (m,) each."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(positive[order])[last].astype(np.float64)
    return hits, last + 1 - hits
