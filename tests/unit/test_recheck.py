"""When a measured metric agrees with the promised one."""

import numpy as np
import pytest

from pyml.evaluation.recheck import MetricCheck


@pytest.mark.parametrize(
    ("metric", "promised", "other"),
    [("n", 10**7, 10**7 + 1), ("n_correct", 10**7, 10**7 - 1), ("accuracy", 0.9, np.nextafter(0.9, 1))],
)
def test_counts_and_accuracy_agree_only_to_the_last_digit(metric: str, promised: float, other: float) -> None:
    assert MetricCheck(metric, promised, promised).agrees
    assert not MetricCheck(metric, promised, other).agrees


@pytest.mark.parametrize(("measured", "agrees"), [(0.5, True), (0.500001, True), (0.5001, False), (0.0, False)])
def test_other_metrics_may_differ_by_the_rounding_of_another_processor(measured: float, agrees: bool) -> None:
    assert MetricCheck("loss", 0.5, measured).agrees is agrees
