"""Test a published bundle again: verify it, load it, predict its test set, compare with its manifest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle.inference.model import load_model, predict_probabilities
from bundle.manifest import Metrics
from bundle.test_set import read_test_set
from bundle.verify import open_bundle
from pyml.evaluation.metrics import evaluate

# Sums of float32 differ in their last digits between processors; counts do not.
RELATIVE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class MetricCheck:
    """One metric: as the manifest promises it, and as it was measured now; None where it cannot be known."""

    metric: str
    promised: float | None
    measured: float | None
    of_class: bool = False

    @property
    def agrees(self) -> bool:
        """Counts and accuracy must be equal to the last digit, the others to five."""
        exact = isinstance(self.promised, int) or self.metric in ("n", "n_correct", "accuracy")
        if exact or self.promised is None or self.measured is None:
            return self.promised == self.measured
        return math.isclose(self.promised, self.measured, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)


def recheck(path: Path) -> list[MetricCheck]:
    """Measure the bundle at path again. Raises BundleError when it cannot be trusted or does not work."""
    bundle = open_bundle(path)
    x, y = read_test_set(bundle)
    classes = bundle.manifest.classes
    measured = evaluate(predict_probabilities(load_model(bundle), x, len(classes)), y)
    return compare_metrics(bundle.manifest.metrics, measured, classes)


def compare_metrics(promised: Metrics, measured: Metrics, classes: Sequence[str]) -> list[MetricCheck]:
    """Set each promised metric beside the measured one: the whole test set's, then each class's."""
    lists = {"per_class", "confusion"}
    checks = [
        MetricCheck(metric, value, getattr(measured, metric))
        for metric, value in promised.model_dump(exclude=lists, exclude_unset=True).items()
    ]
    for name, old, new in zip(classes, promised.per_class, measured.per_class, strict=False):
        of_class = old.model_dump().items()
        checks += [MetricCheck(f"{metric} of {name}", value, getattr(new, metric), True) for metric, value in of_class]
    for name, old_row, new_row in zip(classes, promised.confusion, measured.confusion, strict=False):
        checks += [
            MetricCheck(f"{name} taken for {other}", old_count, new_count, True)
            for other, old_count, new_count in zip(classes, old_row, new_row, strict=False)
        ]
    return checks
