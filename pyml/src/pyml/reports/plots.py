"""Plots of the predictions on the test set, as PNG: the confusion matrix, ROC and precision-recall curves."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bundle.manifest import CONFUSION_FILE, PRECISION_RECALL_FILE, ROC_FILE, Metrics
from pyml.evaluation.metrics import Labels, Probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT_FILES = (CONFUSION_FILE, ROC_FILE, PRECISION_RECALL_FILE)
MAX_NUMBERED_CLASSES = 25  # with more classes, the numbers in the confusion matrix are too small to read
MAX_CURVES = 10  # curves with a colour and a name; the curves of other classes are grey
MAX_NAME = 24  # letters of a class name
DOTS_PER_INCH = 110


@dataclass(frozen=True)
class CurveKind:
    """The names in a plot with one curve per class. corner: the place of the legend that hides least."""

    file: str
    title: str
    metric: str
    x: str
    y: str
    corner: Literal["lower left", "lower right"]


ROC = CurveKind(
    file=ROC_FILE,
    title="ROC, each class against the others: mean AUROC",
    metric="AUROC",
    x="false positive rate",
    y="true positive rate",
    corner="lower right",
)
PRECISION_RECALL = CurveKind(
    file=PRECISION_RECALL_FILE,
    title="Precision and recall: mean average precision",
    metric="AP",
    x="recall",
    y="precision",
    corner="lower left",
)


def draw_plots(
    directory: Path, probabilities: Probabilities, y: Labels, metrics: Metrics, names: Sequence[str]
) -> None:
    """Draw the three plots into directory. names: of the classes."""
    import matplotlib as mpl
    from sklearn.metrics import precision_recall_curve, roc_curve

    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():  # a class name may contain $
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the plot shows a box
        draw_confusion(directory / CONFUSION_FILE, metrics, names)
        roc, precision_recall = _curves(ROC, metrics.auroc), _curves(PRECISION_RECALL, metrics.average_precision)
        for rank, label in _worst_last([one.auroc for one in metrics.per_class]):
            x, up, _ = roc_curve(y == label, probabilities[:, label])
            _add_curve(roc[1], rank, x, up, f"{metrics.per_class[label].auroc:.4f}  {shorten(names[label])}")
        for rank, label in _worst_last([one.average_precision for one in metrics.per_class]):
            up, x, _ = precision_recall_curve(y == label, probabilities[:, label], drop_intermediate=True)
            average_precision = metrics.per_class[label].average_precision
            _add_curve(precision_recall[1], rank, x, up, f"{average_precision:.4f}  {shorten(names[label])}")
        for kind, (figure, axes) in ((ROC, roc), (PRECISION_RECALL, precision_recall)):
            _add_legend(axes, kind)
            figure.savefig(directory / kind.file)


def draw_confusion(path: Path, metrics: Metrics, names: Sequence[str]) -> None:
    """Draw the confusion matrix: counts as numbers, shares of the row (of the label's samples) as colours."""
    short = [shorten(name) for name in names]
    counts = np.array(metrics.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(5.0, 1.8 + 0.5 * len(names)), 14.0)  # inches
    figure, axes = _figure(side + 0.8, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the label's samples", fraction=0.045)
    ticks = range(0, len(names), 1 + len(names) // (2 * MAX_NUMBERED_CLASSES))
    axes.set_xticks(ticks, [short[tick] for tick in ticks], rotation=0 if max(map(len, short)) <= 3 else 90)
    axes.set_yticks(ticks, [short[tick] for tick in ticks])
    axes.set(xlabel="predicted", ylabel="label")
    axes.set_title(f"{metrics.n_correct} of {metrics.n} right: accuracy {metrics.accuracy:.4f}", fontsize=10)
    if len(names) <= MAX_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.6 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, bbox_inches="tight")


def shorten(name: str) -> str:
    """Shorten a class name for a plot: one line, at most 24 letters."""
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def _worst_last(values: Sequence[float | None]) -> list[tuple[int, int]]:
    """Give (rank, class) of each known value. Rank 0 (the lowest) is last, so that it is drawn on top."""
    known = sorted((value, label) for label, value in enumerate(values) if value is not None)
    return [(rank, label) for rank, (_, label) in enumerate(known)][::-1]


def _curves(kind: CurveKind, mean: float | None) -> "tuple[Figure, Axes]":
    figure, axes = _figure(7.2, 5)
    axes.set(xlabel=kind.x, ylabel=kind.y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_title(f"{kind.title} {'unknown' if mean is None else format(mean, '.4f')}", fontsize=11)
    axes.grid(alpha=0.3)
    return figure, axes


def _add_curve(axes: "Axes", rank: int, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], label: str) -> None:
    # The label begins with a number, because matplotlib ignores labels that begin with an underscore.
    colour, width = (f"C{rank}", 1.5) if rank < MAX_CURVES else ("0.8", 0.7)
    axes.plot(x, y, label=label, color=colour, lw=width)


def _add_legend(axes: "Axes", kind: CurveKind) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        of = f" of {len(handles)} classes, the worst {MAX_CURVES}" if len(handles) > MAX_CURVES else ""
        shown = slice(None, -MAX_CURVES - 1, -1)
        title = kind.metric + of
        axes.legend(handles[shown], labels[shown], title=title, fontsize=8, title_fontsize=8, loc=kind.corner)


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """Make a matplotlib Figure (size in inches) with axes, without pyplot's global state and windows."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DOTS_PER_INCH, layout="constrained")
    return figure, figure.add_subplot()
