"""Figures on the test set, by scikit-learn, and the predictions that they come from.

A mean counts each class that the test set has once, however many samples it has: precision, recall and F1 of the
predicted class, AUROC and average precision of its probability against all others. A class that is never predicted
has precision 0. A class that the test set lacks has no figures, only its column in the confusion matrix.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.manifest import ClassMetrics, Metrics

Probabilities = npt.NDArray[np.float32]  # (n, n_classes)
Labels = npt.NDArray[np.int64]  # (n,), numbers into the classes


def evaluate(probabilities: Probabilities, y: Labels) -> Metrics:
    """Compare predicted probabilities with the labels.

    accuracy is the quotient of two integers, so that another program, SQL for one, finds the very same double. loss is
    the mean cross-entropy; scikit-learn clips probabilities at the float32 epsilon, Keras at 1e-7.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    labels = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    n_correct = int(np.count_nonzero(predicted == y))
    each = precision_recall_fscore_support(y, predicted, labels=labels, zero_division=0)
    per_class = tuple(
        _class_metrics(probabilities[:, label], y == label, figures)
        for label, figures in zip(labels, zip(*each[:3], strict=True), strict=True)
    )
    precision, recall, f1, _ = precision_recall_fscore_support(
        y, predicted, labels=np.unique(y), average="macro", zero_division=0
    )
    auroc = _mean([figures.auroc for figures in per_class])
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
        average_precision=_mean([figures.average_precision for figures in per_class]),
        per_class=per_class,
        confusion=confusion_matrix(y, predicted, labels=labels).tolist(),
    )


def write_predictions(path: Path, probabilities: Probabilities, y: Labels, classes: Sequence[str]) -> None:
    """Write predictions.csv: sample, label, predicted, confidence, p_<class>...; one row for each test sample.

    sample counts from 0 in the order of test_set.npz. Probabilities have the fewest digits that give the same float32.
    """
    predicted = probabilities.argmax(axis=1)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["sample", "label", "predicted", "confidence", *(f"p_{name}" for name in classes)])
        for sample, (row, label, best) in enumerate(zip(probabilities, y, predicted, strict=True)):
            rows.writerow([sample, classes[label], classes[best], str(row[best]), *map(str, row)])


def _class_metrics(
    scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_], figures: tuple[float, float, float]
) -> ClassMetrics:
    """Give one class's figures: scores (n,) are its probabilities, positive (n,) says which samples have it."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    n = int(np.count_nonzero(positive))
    precision, recall, f1 = (float(figure) if n else None for figure in figures)
    return ClassMetrics(
        n=n,
        precision=precision,
        recall=recall,
        f1=f1,
        auroc=float(roc_auc_score(positive, scores)) if 0 < n < len(positive) else None,
        average_precision=float(average_precision_score(positive, scores)) if n else None,
    )


def _mean(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None
