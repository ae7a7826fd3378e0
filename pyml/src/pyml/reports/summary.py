"""The test set's figures as the terminal shows them: what the whole model reached, then each class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bundle.manifest import Manifest

if TYPE_CHECKING:
    from rich.table import Table

    from pyml.evaluation.recheck import MetricCheck

MAX_CLASSES = 20  # of more, those with the lowest F1 are shown


def headline(manifest: Manifest) -> str:
    """Say in one line how good a model is."""
    metrics = manifest.metrics
    ranking = "" if metrics.auroc is None else f", AUROC {metrics.auroc:.4f} (Gini {metrics.gini:.4f})"
    return (
        f"{manifest.bundle_id}: test accuracy {metrics.accuracy!r} ({metrics.n_correct} of {metrics.n}), "
        f"macro F1 {metrics.macro_f1:.4f}{ranking}, loss {metrics.loss:.4f}"
    )


def class_table(manifest: Manifest) -> "Table":
    """Make the table of each class's figures, and of the class that it is taken for most often."""
    from rich.table import Table
    from rich.text import Text

    metrics, classes = manifest.metrics, manifest.classes
    order = sorted(range(len(classes)), key=lambda label: _f1(manifest, label))[:MAX_CLASSES]
    title = f"the {MAX_CLASSES} classes with the lowest F1" if len(classes) > MAX_CLASSES else None
    numbers = ("n", "precision", "recall", "F1", "AUROC", "AP")
    table = Table("class", title=title)
    for name in numbers:
        table.add_column(name, justify="right")
    table.add_column("confused with", no_wrap=True)
    for label in order if title else range(len(classes)):
        figures = metrics.per_class[label]
        known = (figures.precision, figures.recall, figures.f1, figures.auroc, figures.average_precision)
        table.add_row(
            Text(classes[label]), str(figures.n), *(_show(figure) for figure in known), Text(_mistake(manifest, label))
        )
    means = (metrics.macro_precision, metrics.macro_recall, metrics.macro_f1, metrics.auroc, metrics.average_precision)
    table.add_section()
    table.add_row("mean", str(metrics.n), *(_show(mean) for mean in means))
    return table


def recheck_table(title: str, checks: "Sequence[MetricCheck]") -> "Table":
    """Make the table of the metrics that were measured again; of those of single classes only what differs."""
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", "manifest", "measured", "", title=title)
    for check in checks:
        if not (check.of_class and check.agrees):
            equal = "equal" if check.agrees else "DIFFERENT"
            table.add_row(Text(check.metric), repr(check.promised), repr(check.measured), equal)
    return table


def _f1(manifest: Manifest, label: int) -> float:
    f1 = manifest.metrics.per_class[label].f1
    return 2 if f1 is None else f1  # nothing is known of it: last


def _mistake(manifest: Manifest, label: int) -> str:
    row = manifest.metrics.confusion[label]
    count, other = max((count, -other) for other, count in enumerate(row) if other != label)
    return f"{manifest.classes[-other]} ({count})" if count else ""


def _show(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"
