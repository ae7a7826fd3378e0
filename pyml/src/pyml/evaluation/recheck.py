"""Test a published bundle again: verify it, load it, predict its test set, compare the metrics with its manifest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError
from bundle.inference.load import load_model
from bundle.manifest import Metrics
from bundle.messages import one_line
from bundle.test_set import read_test_set
from bundle.verify import open_bundle
from pyml.evaluation.metrics import evaluate

# Sums of float32 differ in the last digits between processors; counts do not differ.
RELATIVE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class MetricCheck:
    """A metric in the manifest (expected) and the same metric measured now; None if it cannot be computed."""

    metric: str
    expected: float | None
    measured: float | None
    of_class: bool = False

    @property
    def agrees(self) -> bool:
        """Whether both values agree: counts and accuracy exactly, other metrics to five digits."""
        exact = isinstance(self.expected, int) or self.metric in ("n", "n_correct", "accuracy")
        if exact or self.expected is None or self.measured is None:
            return self.expected == self.measured
        return math.isclose(self.expected, self.measured, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)


def recheck(path: Path) -> list[MetricCheck]:
    """Measure the bundle at path again. Raises BundleError if it is not valid or cannot be loaded."""
    bundle = open_bundle(path)
    x, y = read_test_set(bundle)
    classes = bundle.manifest.classes
    model = load_model(bundle)
    try:
        measured = evaluate(model.predict(x), y)
    except (RuntimeError, ValueError) as error:  # the interpreter's errors; scikit-learn's for NaN
        raise BundleError(f"{path}: the model does not predict its test set ({one_line(error)}); retrain it") from error
    return compare_metrics(bundle.manifest.metrics, measured, classes)


def compare_metrics(expected: Metrics, measured: Metrics, classes: Sequence[str]) -> list[MetricCheck]:
    """Pair each expected metric with the measured metric: first of the whole test set, then of each class."""
    lists = {"per_class", "confusion"}
    checks = [
        MetricCheck(metric, value, getattr(measured, metric))
        for metric, value in expected.model_dump(exclude=lists, exclude_unset=True).items()
    ]
    for name, old, new in zip(classes, expected.per_class, measured.per_class, strict=False):
        of_class = old.model_dump().items()
        checks += [MetricCheck(f"{metric} of {name}", value, getattr(new, metric), True) for metric, value in of_class]
    for name, old_row, new_row in zip(classes, expected.confusion, measured.confusion, strict=False):
        checks += [
            MetricCheck(f"{name} predicted as {other}", old_count, new_count, True)
            for other, old_count, new_count in zip(classes, old_row, new_row, strict=False)
        ]
    return checks
