"""The metrics on the test set for the terminal: a line for the whole model, and a table of the classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bundle.manifest import Manifest
from bundle.messages import printable

if TYPE_CHECKING:
    from rich.table import Table

    from pyml.evaluation.recheck import MetricCheck

MAX_CLASSES = 20  # if there are more, the classes with the lowest F1 are shown


def headline(manifest: Manifest) -> str:
    """Give the metrics of a model in one line."""
    metrics = manifest.metrics
    ranking = "" if metrics.auroc is None else f", AUROC {metrics.auroc:.4f} (Gini {metrics.gini:.4f})"
    return (
        f"{manifest.bundle_id}: test accuracy {metrics.accuracy!r} ({metrics.n_correct} of {metrics.n}), "
        f"macro F1 {metrics.macro_f1:.4f}{ranking}, loss {metrics.loss:.4f}"
    )


def class_table(manifest: Manifest) -> "Table":
    """Make the table of each class's metrics, with the class that is most often predicted instead."""
    from rich.table import Table
    from rich.text import Text

    metrics, classes = manifest.metrics, manifest.classes
    order = sorted(range(len(classes)), key=lambda label: _f1(manifest, label))[:MAX_CLASSES]
    title = f"the {MAX_CLASSES} classes with the lowest F1" if len(classes) > MAX_CLASSES else None
    numbers = ("n", "precision", "recall", "F1", "AUROC", "AP")
    table = Table(title=title)
    table.add_column("class", overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("confused with", overflow="fold")
    for label in order if title else range(len(classes)):
        one = metrics.per_class[label]
        values = (one.precision, one.recall, one.f1, one.auroc, one.average_precision)
        cells = [_format(value) for value in values]
        table.add_row(Text(printable(classes[label])), str(one.n), *cells, Text(printable(_mistake(manifest, label))))
    means = (metrics.macro_precision, metrics.macro_recall, metrics.macro_f1, metrics.auroc, metrics.average_precision)
    table.add_section()
    cells = [_format(mean) for mean in means]
    table.add_row("mean", str(metrics.n), *cells)
    return table


def recheck_table(title: str, checks: "Sequence[MetricCheck]") -> "Table":
    """Make the table of a second measurement. Metrics of single classes are shown only if they differ."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    table.add_column("metric", overflow="fold")
    for name in ("manifest", "measured", ""):
        table.add_column(name, no_wrap=True)
    for check in checks:
        if not (check.of_class and check.agrees):
            equal = "equal" if check.agrees else "DIFFERENT"
            table.add_row(Text(printable(check.metric)), repr(check.expected), repr(check.measured), equal)
    return table


def _f1(manifest: Manifest, label: int) -> float:
    f1 = manifest.metrics.per_class[label].f1
    return 2 if f1 is None else f1  # unknown F1: sort it last


def _mistake(manifest: Manifest, label: int) -> str:
    row = manifest.metrics.confusion[label]
    count, other = max((count, -other) for other, count in enumerate(row) if other != label)
    return f"{manifest.classes[-other]} ({count})" if count else ""


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
