"""Figures on the held-out test set, by scikit-learn, and the predictions that they come from."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.manifest import Metrics


def evaluate(probabilities: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> Metrics:
    """Compare predicted probabilities (n, n_classes) with the labels (n,).

    accuracy is the quotient of two integers, so that another program, SQL for one, finds the very same double. loss is
    the mean cross-entropy; scikit-learn clips probabilities at the float32 epsilon, Keras at 1e-7.
    """
    from sklearn.metrics import log_loss, precision_recall_fscore_support

    labels = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    n_correct = int(np.count_nonzero(predicted == y))
    precision, recall, f1, _ = precision_recall_fscore_support(
        y, predicted, labels=labels, average="macro", zero_division=0
    )
    return Metrics(
        n=len(y),
        n_correct=n_correct,
        accuracy=n_correct / len(y),
        loss=float(log_loss(y, probabilities, labels=labels)),
        macro_precision=float(precision),
        macro_recall=float(recall),
        macro_f1=float(f1),
    )


def write_predictions(
    path: Path, probabilities: npt.NDArray[np.float32], y: npt.NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Write predictions.csv: sample, label, predicted, confidence, p_<class>...; one row for each test sample.

    sample counts from 0 in the order of holdout.npz. Probabilities have the fewest digits that give the same float32.
    """
    predicted = probabilities.argmax(axis=1)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["sample", "label", "predicted", "confidence", *(f"p_{name}" for name in classes)])
        for sample, (row, label, best) in enumerate(zip(probabilities, y, predicted, strict=True)):
            rows.writerow([sample, classes[label], classes[best], str(row[best]), *map(str, row)])
