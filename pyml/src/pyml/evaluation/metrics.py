"""Metrics on the test set, computed by scikit-learn, and predictions.csv.

Precision, recall and F1 compare predicted classes with labels. AUROC and average precision use the probability of one
class against all other classes. A macro mean gives each class of the test set the same weight. A class that the model
never predicts has precision 0. A class without a test sample has no metrics, only its place in the confusion matrix.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.csv_rows import write_rows
from bundle.manifest import ClassMetrics, Metrics

Probabilities = npt.NDArray[np.float32]  # (n, n_classes)
Labels = npt.NDArray[np.int64]  # (n,), indices into the classes


def evaluate(probabilities: Probabilities, y: Labels) -> Metrics:
    """Compare predicted probabilities with the labels.

    accuracy is the quotient of two integers, so that another program (for example SQL) computes the same double.
    loss is the mean cross-entropy. scikit-learn clips probabilities at the float32 epsilon, Keras at 1e-7.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    labels = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    n_correct = int(np.count_nonzero(predicted == y))
    each = precision_recall_fscore_support(y, predicted, labels=labels, zero_division=0)
    per_class = tuple(
        _class_metrics(probabilities[:, label], y == label, scores)
        for label, scores in zip(labels, zip(*each[:3], strict=True), strict=True)
    )
    precision, recall, f1, _ = precision_recall_fscore_support(
        y, predicted, labels=np.unique(y), average="macro", zero_division=0
    )
    auroc = _mean([metrics.auroc for metrics in per_class])
    return Metrics(
        n=len(y),
        n_correct=n_correct,
        accuracy=n_correct / len(y),
        loss=float(log_loss(y, probabilities, labels=labels)),
        macro_precision=float(precision),
        macro_recall=float(recall),
        macro_f1=float(f1),
        auroc=auroc,
        gini=None if auroc is None else 2 * auroc - 1,
        average_precision=_mean([metrics.average_precision for metrics in per_class]),
        per_class=per_class,
        confusion=confusion_matrix(y, predicted, labels=labels).tolist(),
    )


def write_predictions(path: Path, probabilities: Probabilities, y: Labels, classes: Sequence[str]) -> None:
    """Write predictions.csv: sample, label, predicted, confidence, p_<class>...; one row for each test sample.

    sample counts from 0 in the order of test_set.npz. Probabilities are written with the fewest digits that give the
    same float32.
    """
    header = ["sample", "label", "predicted", "confidence", *(f"p_{name}" for name in classes)]
    rows = (
        [sample, classes[label], classes[best], str(row[best]), *map(str, row)]
        for sample, (row, label, best) in enumerate(zip(probabilities, y, probabilities.argmax(axis=1), strict=True))
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, itertools.chain([header], rows))


def _class_metrics(
    probabilities: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_], scores: tuple[float, float, float]
) -> ClassMetrics:
    """Give the metrics of one class.

    probabilities (n,): of the class. positive (n,): whether a sample has the class. scores: precision, recall and F1.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    n = int(np.count_nonzero(positive))
    precision, recall, f1 = (float(score) if n else None for score in scores)
    return ClassMetrics(
        n=n,
        precision=precision,
        recall=recall,
        f1=f1,
        auroc=float(roc_auc_score(positive, probabilities)) if 0 < n < len(positive) else None,
        average_precision=float(average_precision_score(positive, probabilities)) if n else None,
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
