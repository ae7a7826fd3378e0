"""The metrics and the charts of one dataset in an HTML report, computed from what was read."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from bundle.history import Epoch
from pypredict.charts import Axis, Chart, Values, make_axis, make_bars, make_line
from pypredict.report_data import DatasetReport, Predictions
from pypredict.report_metrics import (
    N_BINS,
    Bin,
    ClassScores,
    Counts,
    Curve,
    calibrate,
    calibration_error,
    count_confusion,
    mean,
    precision_recall_curve,
    roc_curve,
    score_classes,
)

MAX_MATRIX = 20  # classes of a confusion matrix; of more classes, the most frequent mistakes are shown
MAX_MISTAKES = 20
MAX_CURVES = 4  # classes with ROC and precision-recall curves
MAX_EPOCHS = 50  # rows of the table of learning curves
EPOCH_COLUMNS = ("seconds", "loss", "val_loss", "accuracy", "val_accuracy", "val_auroc")
EPOCH_CHARTS = (("loss", "val_loss"), ("accuracy", "val_accuracy"))


@dataclass(frozen=True)
class ClassRow:
    """The metrics of one class, and its curves."""

    name: str
    scores: ClassScores
    roc: Curve | None
    precision_recall: Curve | None

    @property
    def auroc(self) -> float | None:
        """The area under the ROC curve."""
        return None if self.roc is None else self.roc.area

    @property
    def average_precision(self) -> float | None:
        """The area under the precision-recall curve."""
        return None if self.precision_recall is None else self.precision_recall.area


@dataclass(frozen=True)
class Baseline:
    """The model that always predicts the most frequent class of `origin`, measured on the test set."""

    name: str
    origin: str
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class Scored:
    """The metrics and charts of a test set. n of n_all test inputs were read; confusion is empty for many classes."""

    n: int
    n_all: int
    accuracy: float
    macro_f1: float | None
    auroc: float | None
    average_precision: float | None
    baseline: Baseline
    classes: list[ClassRow]
    confusion: list[tuple[ClassRow, list[tuple[int, float]]]]
    frequent_mistakes: list[tuple[str, str, int, float]]
    rocs: list[Chart]
    precision_recalls: list[Chart]
    bins: list[Bin]
    calibration_error: float
    confidence_charts: list[Chart]


@dataclass(frozen=True)
class Section:
    """One dataset as the page shows it. scored: None when no input of the test set is predicted."""

    data: DatasetReport
    verdict: str
    good: bool
    curves: list[Chart]
    epochs: list[Epoch]
    epoch_columns: list[str]
    scored: Scored | None


def make_section(data: DatasetReport, verdict: str, *, good: bool) -> Section:
    """Compute the metrics of one dataset and draw its charts."""
    return Section(
        data=data,
        verdict=verdict,
        good=good,
        curves=_draw_epochs(data.epochs),
        epochs=_thin_epochs(data.epochs),
        epoch_columns=[name for name in EPOCH_COLUMNS if any(name in epoch for epoch in data.epochs)],
        scored=score(data) if len(data.tested.labels) else None,
    )


def score(data: DatasetReport) -> Scored:
    """Compute the metrics on the test set, which has at least one input."""
    tested, names = data.tested, data.manifest.classes
    counts = count_confusion(tested.labels, tested.predicted, len(names))
    classes = make_class_rows(tested, names, counts)
    right = tested.labels == tested.predicted
    bins = calibrate(tested.scores.astype(np.float64), right)
    worst = sorted((one for one in classes if one.roc), key=lambda one: (one.auroc, one.name))[:MAX_CURVES]
    return Scored(
        n=len(tested.labels),
        n_all=tested.n_all,
        accuracy=int(right.sum()) / len(tested.labels),
        macro_f1=mean([one.scores.f1 for one in classes]),
        auroc=mean([one.auroc for one in classes]),
        average_precision=mean([one.average_precision for one in classes]),
        baseline=make_baseline(counts.sum(axis=1).tolist(), names, data.training.get("train", Counter())),
        classes=classes,
        confusion=_confusion_rows(classes, counts) if len(names) <= MAX_MATRIX else [],
        frequent_mistakes=_frequent_mistakes(classes, counts),
        rocs=[_draw_roc(one) for one in worst],
        precision_recalls=[_draw_precision_recall(one) for one in worst],
        bins=bins,
        calibration_error=calibration_error(bins),
        confidence_charts=[
            _draw_reliability(bins),
            _draw_scores("right", tested.scores[right]),
            _draw_scores("wrong", tested.scores[~right]),
        ],
    )


def make_class_rows(tested: Predictions, names: tuple[str, ...], counts: Counts) -> list[ClassRow]:
    """Compute the metrics and the curves of each class. counts: the confusion matrix."""
    rows = []
    for number, (name, scores) in enumerate(zip(names, score_classes(counts), strict=True)):
        positive, probabilities = tested.labels == number, tested.probabilities[:, number].astype(np.float64)
        both = roc_curve(positive, probabilities), precision_recall_curve(positive, probabilities)
        rows.append(ClassRow(name, scores, both[0], both[1]))
    return rows


def make_baseline(labels: list[int], names: tuple[str, ...], training: Counter[str]) -> Baseline:
    """Measure the model that always predicts the most frequent class. labels: how many test inputs have each class.

    training: the same of the training data; when it is empty, the most frequent class of the test set is taken.
    """
    learned = [training.get(name, 0) for name in names]
    most = max(range(len(names)), key=(learned if any(learned) else labels).__getitem__)
    n, hits = sum(labels), labels[most]
    f1 = 2 * hits / (n + hits) if hits else 0.0
    return Baseline(
        name=names[most],
        origin="the training data" if any(learned) else "the test set",
        accuracy=hits / n if n else 0.0,
        macro_f1=f1 / max(sum(1 for one in labels if one), 1),
    )


def _confusion_rows(classes: list[ClassRow], counts: Counts) -> list[tuple[ClassRow, list[tuple[int, float]]]]:
    return [
        (one, [(n, n / max(int(row.sum()), 1)) for n in row.tolist()]) for one, row in zip(classes, counts, strict=True)
    ]


def _frequent_mistakes(classes: list[ClassRow], counts: Counts) -> list[tuple[str, str, int, float]]:
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    found = []
    for place in np.argsort(-mistakes, axis=None, kind="stable")[:MAX_MISTAKES].tolist():
        label, predicted = divmod(place, len(classes))
        if n := int(mistakes[label, predicted]):
            found.append((classes[label].name, classes[predicted].name, n, n / int(counts[label].sum())))
    return found


def _thin_epochs(epochs: list[Epoch]) -> list[Epoch]:
    """Keep at most MAX_EPOCHS epochs, evenly spread, with the first and the last."""
    if len(epochs) <= MAX_EPOCHS:
        return epochs
    return [epochs[number] for number in np.linspace(0, len(epochs) - 1, MAX_EPOCHS).round().astype(int).tolist()]


def _draw_epochs(epochs: list[Epoch]) -> list[Chart]:
    charts = []
    for names in EPOCH_CHARTS:
        drawn = {
            name: [(one["epoch"], one[name]) for one in epochs if np.isfinite(one.get(name, np.nan)) and "epoch" in one]
            for name in names
        }
        values = [value for points in drawn.values() for _, value in points]
        if not values:
            continue
        low, high = (0.0, max(values)) if names[0] == "loss" else (min(values), max(1.0, *values))
        numbers = [number for points in drawn.values() for number, _ in points]
        axes = (
            make_axis("epoch", min(numbers), max(numbers), whole=True),
            make_axis(names[0], low, high, vertical=True),
        )
        kinds = {names[0]: ("training", "first"), names[1]: ("validation", "second")}
        lines = [
            make_line(kinds[name][0], [x for x, _ in points], [y for _, y in points], axes, kinds[name][1])
            for name, points in drawn.items()
            if points
        ]
        said = "; ".join(
            f"{kinds[name][0]} from {points[0][1]:.4g} to {points[-1][1]:.4g}"
            for name, points in drawn.items()
            if points
        )
        title = f"{names[0]} over the epochs"
        charts.append(Chart(title, f"Line chart: {title}; {said}.", *axes, lines=lines))
    return charts


def _unit_axes(x_title: str, y_title: str) -> tuple[Axis, Axis]:
    return make_axis(x_title, 0, 1), make_axis(y_title, 0, 1, vertical=True)


def _draw_roc(one: ClassRow) -> Chart:
    assert one.roc is not None  # noqa: S101 - for the type checker: only such classes are drawn
    axes = _unit_axes("false positive rate", "true positive rate")
    lines = [make_line("", [0, 1], [0, 1], axes, "guide"), make_line("", one.roc.x, one.roc.y, axes)]
    said = f"ROC curve of the class {one.name}; AUROC {one.roc.area:.4f}."
    return Chart(f"{one.name}: AUROC {one.roc.area:.4f}", said, *axes, lines=lines)


def _draw_precision_recall(one: ClassRow) -> Chart:
    curve = one.precision_recall
    assert curve is not None  # noqa: S101 - a class with a ROC curve has an input
    axes = _unit_axes("recall", "precision")
    share = float(curve.y[-1])  # at the lowest threshold every input counts: the precision of chance
    lines = [make_line("", [0, 1], [share, share], axes, "guide"), make_line("", curve.x, curve.y, axes)]
    said = f"Precision-recall curve of the class {one.name}; average precision {curve.area:.4f}."
    return Chart(f"{one.name}: AP {curve.area:.4f}", said, *axes, lines=lines)


def _draw_reliability(bins: list[Bin]) -> Chart:
    axes = _unit_axes("confidence", "accuracy")
    heights = np.zeros(N_BINS)
    for one in bins:
        heights[round(one.low * N_BINS)] = one.accuracy
    lines = [
        make_line("accuracy = confidence", [0, 1], [0, 1], axes, "guide"),
        make_line(
            "mean confidence of the bins", [b.confidence for b in bins], [b.accuracy for b in bins], axes, "second"
        ),
    ]
    said = "; ".join(f"{b.low:.1f} to {b.high:.1f}: accuracy {b.accuracy:.2f}, {b.n} inputs" for b in bins)
    bars = make_bars(np.linspace(0, 1, N_BINS + 1), heights, axes)
    return Chart("Reliability diagram", f"Bar chart: accuracy by confidence. {said}.", *axes, lines=lines, bars=bars)


def _draw_scores(kind: str, scores: Values) -> Chart:
    counts, edges = np.histogram(np.clip(scores, 0, 1), bins=2 * N_BINS, range=(0, 1))
    axes = (
        make_axis("confidence", 0, 1),
        make_axis("inputs", 0, max(int(counts.max()), 1), vertical=True, whole=True),
    )
    said = "; ".join(
        f"{low:.2f} to {high:.2f}: {n}" for low, high, n in zip(edges, edges[1:], counts.tolist(), strict=False) if n
    )
    title = f"Confidence of {kind} predictions ({len(scores):,})"
    return Chart(title, f"Histogram: {title}. {said or 'none'}.", *axes, bars=make_bars(edges, counts, axes))
