"""Add interactive charts of the test set to the record: confusion matrix, ROC and precision-recall curves.

W&B draws a chart in the browser, from a table in the record and a Vega specification of its own. The specifications are
those of `wandb.plot.confusion_matrix`, `roc_curve` and `pr_curve`. These functions are not called, because they need
pandas, do not bound the number of classes, and smooth the precision. A table is small for any test set: it has at most
20 classes, the worst, and 50 points of a curve. So it has at most 400 cells of the matrix, or 1,000 points. The PNG
files show all classes and points.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.manifest import ClassMetrics, Manifest
from bundle.messages import printable
from pyml.tracking.predictions import read_probabilities

MAX_CLASSES, MAX_POINTS = 20, 50  # of a chart, of a curve
MATRIX, CURVES = "wandb/confusion_matrix/v1", "wandb/area-under-curve/v0"


def log_charts(run: Any, path: Path, manifest: Manifest) -> None:
    """Record the three charts beside the PNG files, for example `test/roc_chart` beside `test/roc`."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    y, probabilities = read_probabilities(path, manifest.classes)
    names, per_class = [printable(name) for name in manifest.classes], manifest.metrics.per_class
    roc, precision_recall = [], []
    for label in _lowest([one.auroc for one in per_class]):
        x, up, _ = roc_curve(y == label, probabilities[:, label])
        roc += _points(names[label], x, up)
    for label in _lowest([one.average_precision for one in per_class]):
        up, x, _ = precision_recall_curve(y == label, probabilities[:, label], drop_intermediate=True)
        precision_recall += _points(names[label], x, up)
    run.log(
        {
            "test/confusion_chart": _confusion_chart(manifest, names),
            "test/roc_chart": _curve_chart("ROC", "false positive rate", "true positive rate", roc, per_class),
            "test/precision_recall_chart": _curve_chart(
                "Precision and recall", "recall", "precision", precision_recall, per_class
            ),
        }
    )


def _confusion_chart(manifest: Manifest, names: Sequence[str]) -> Any:
    import wandb

    counts = np.array(manifest.metrics.confusion, np.int64).reshape(len(names), len(names))
    n_wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shown = sorted(np.argsort(-n_wrong, kind="stable")[:MAX_CLASSES].tolist())
    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    data = [[names[row], names[column], int(counts[row, column])] for row in shown for column in shown]
    return wandb.plot_table(
        vega_spec_name=MATRIX,
        data_table=wandb.Table(columns=columns, data=data),
        fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        string_fields={"title": f"Confusion matrix{_limit(len(shown), len(names))}"},
    )


def _curve_chart(title: str, x: str, y: str, points: list[list[Any]], per_class: Sequence[ClassMetrics]) -> Any:
    """points: rows of class, x and y."""
    import wandb

    shown = len({name for name, *_ in points})
    return wandb.plot_table(
        vega_spec_name=CURVES,
        data_table=wandb.Table(columns=["class", x, y], data=points),
        fields={"class": "class", "x": x, "y": y},
        string_fields={"title": title + _limit(shown, len(per_class)), "x-axis-title": x, "y-axis-title": y},
    )


def _limit(shown: int, n_classes: int) -> str:
    return f", the worst {shown} of {n_classes} classes" if shown < n_classes else ""


def _lowest(values: Sequence[float | None]) -> list[int]:
    """Give the classes with the lowest known values, in the order of their labels."""
    known = sorted((value, label) for label, value in enumerate(values) if value is not None)
    return sorted(label for _, label in known[:MAX_CLASSES])


def _points(name: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> list[list[Any]]:
    """Choose at most 50 points of a curve, with both ends."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).round().astype(int))
    return [[name, round(float(x[point]), 4), round(float(y[point]), 4)] for point in chosen]
