"""When a measured metric agrees with the metric in the manifest."""

import numpy as np
import pytest

from pyml.evaluation.recheck import MetricCheck


@pytest.mark.parametrize(
    ("metric", "expected", "other"),
    [("n", 10**7, 10**7 + 1), ("n_correct", 10**7, 10**7 - 1), ("accuracy", 0.9, np.nextafter(0.9, 1))],
)
def test_counts_and_accuracy_must_agree_exactly(metric: str, expected: float, other: float) -> None:
    assert MetricCheck(metric, expected, expected).agrees
    assert not MetricCheck(metric, expected, other).agrees


@pytest.mark.parametrize(("measured", "agrees"), [(0.5, True), (0.500001, True), (0.5001, False), (0.0, False)])
def test_other_metrics_can_differ_by_rounding(measured: float, agrees: bool) -> None:
    assert MetricCheck("loss", 0.5, measured).agrees is agrees
