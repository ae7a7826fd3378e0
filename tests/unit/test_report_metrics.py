"""The metrics of the report equal those of scikit-learn and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.dummy import DummyClassifier

from pypredict.report_data import Predictions
from pypredict.report_metrics import (
    calibrate,
    calibration_error,
    compare_mcnemar,
    count_confusion,
    precision_recall_curve,
    roc_curve,
    score_classes,
)
from pypredict.report_section import make_baseline, make_class_rows

RELAXED = settings(max_examples=25)
SEEDS = st.integers(0, 2**32 - 1)


def sample(seed: int, n: int = 300, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and probabilities (n, k) float32; rounded, so that many are equal. The last class has no input."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k - 1, n)
    scores = np.exp(rng.normal(size=(n, k)) + 2 * np.eye(k)[labels])
    return labels, (scores / scores.sum(axis=1, keepdims=True)).round(2).astype(np.float32)


def predictions(seed: int) -> Predictions:
    labels, probabilities = sample(seed)
    ids = np.arange(len(labels))
    return Predictions(ids, labels, probabilities.argmax(axis=1), probabilities.max(axis=1), probabilities, len(labels))


@RELAXED
@given(seed=SEEDS)
def test_the_confusion_matrix_and_class_metrics_equal_sklearn(seed: int) -> None:
    labels, probabilities = sample(seed)
    predicted = probabilities.argmax(axis=1)
    counts = count_confusion(labels, predicted, 4)
    assert np.array_equal(counts, metrics.confusion_matrix(labels, predicted, labels=range(4)))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(4), zero_division=0
    )
    ours = score_classes(counts)
    assert [one.n for one in ours] == support.tolist()
    for number, one in enumerate(ours[:3]):
        assert (one.precision, one.recall) == (precision[number], recall[number])
        assert one.f1 == pytest.approx(f1[number], rel=1e-15)
    assert (ours[3].precision, ours[3].recall, ours[3].f1) == (None, None, None)


@RELAXED
@given(seed=SEEDS)
def test_roc_and_auroc_equal_sklearn(seed: int) -> None:
    labels, probabilities = sample(seed)
    scores = probabilities[:, 1].astype(np.float64)
    ours = roc_curve(labels == 1, scores)
    assert ours is not None
    x, y, _ = metrics.roc_curve(labels == 1, scores, drop_intermediate=False)
    np.testing.assert_allclose(ours.x, x, rtol=1e-15)
    np.testing.assert_allclose(ours.y, y, rtol=1e-15)
    assert ours.area == pytest.approx(metrics.roc_auc_score(labels == 1, scores), rel=1e-12)


@RELAXED
@given(seed=SEEDS)
def test_precision_recall_and_average_precision_equal_sklearn(seed: int) -> None:
    labels, probabilities = sample(seed)
    scores = probabilities[:, 1].astype(np.float64)
    ours = precision_recall_curve(labels == 1, scores)
    assert ours is not None
    precision, recall, _ = metrics.precision_recall_curve(labels == 1, scores)
    np.testing.assert_allclose(ours.y, precision[::-1], rtol=1e-15)
    np.testing.assert_allclose(ours.x, recall[::-1], rtol=1e-15)
    assert ours.area == pytest.approx(metrics.average_precision_score(labels == 1, scores), rel=1e-12)


def test_a_class_without_an_input_has_no_curve() -> None:
    rows = make_class_rows(predictions(0), ("a", "b", "c", "d"), count_confusion(*outcome(predictions(0)), 4))
    assert [row.auroc is None for row in rows] == [False, False, False, True]
    assert [row.average_precision is None for row in rows] == [False, False, False, True]


def outcome(one: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return one.labels, one.predicted


@RELAXED
@given(seed=SEEDS)
def test_the_reliability_diagram_equals_sklearn(seed: int) -> None:
    labels, probabilities = sample(seed)
    confidence, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    bins = calibrate(confidence, right)
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=10)
    np.testing.assert_allclose([one.accuracy for one in bins], accuracy, rtol=1e-12)
    np.testing.assert_allclose([one.confidence for one in bins], mean_confidence, rtol=1e-12)
    shares = np.array([one.n for one in bins]) / len(labels)
    assert calibration_error(bins) == pytest.approx(float(shares @ np.abs(accuracy - mean_confidence)), rel=1e-12)


@RELAXED
@given(only_first=st.integers(0, 3000), only_second=st.integers(0, 3000))
def test_mcnemar_equals_the_binomial_test_of_scipy(only_first: int, only_second: int) -> None:
    ours = compare_mcnemar(only_first, only_second).p_value
    n = only_first + only_second
    assert ours == pytest.approx(binomtest(only_first, n).pvalue if n else 1.0, rel=1e-8, abs=1e-300)


@RELAXED
@given(seed=SEEDS)
def test_the_baseline_equals_the_dummy_of_sklearn(seed: int) -> None:
    from collections import Counter

    rng = np.random.default_rng(seed)
    train, test = rng.integers(0, 3, 50), rng.integers(0, 3, 40)
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((50, 1)), train)
    predicted = dummy.predict(np.zeros((40, 1)))
    labels, names = np.bincount(test, minlength=3).tolist(), ("0", "1", "2")
    ours = make_baseline(labels, names, Counter(map(str, train.tolist())))
    assert ours.name == str(predicted[0])
    assert ours.accuracy == metrics.accuracy_score(test, predicted)
    present = np.unique(test)
    f1 = metrics.f1_score(test, predicted, labels=present, average="macro", zero_division=0)
    assert ours.macro_f1 == pytest.approx(f1, rel=1e-12)
