"""The metrics on the test set, and predictions.csv."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
    roc_auc_score,
)

from bundle.manifest import ClassMetrics, Metrics
from pyml.evaluation.metrics import evaluate, write_predictions

RELAXED = settings(max_examples=25)


def float32(rows: Sequence[Sequence[float]] | Sequence[float]) -> npt.NDArray[np.float32]:
    return np.array(rows, np.float32)


def softmax(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.normal(size=(n, n_classes)) * 3)
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), rng.integers(0, n_classes, n)


@RELAXED
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200), n_classes=st.integers(2, 12))
def test_metrics_equal_those_of_scikit_learn(seed: int, n: int, n_classes: int) -> None:
    probabilities, y = softmax(seed, n, n_classes)
    metrics = evaluate(probabilities, y)
    predicted, labels, present = probabilities.argmax(axis=1), np.arange(n_classes), np.unique(y)
    macro = precision_recall_fscore_support(y, predicted, labels=present, average="macro", zero_division=0)[:3]
    assert (metrics.macro_precision, metrics.macro_recall, metrics.macro_f1) == macro
    assert metrics.loss == pytest.approx(log_loss(y, probabilities, labels=labels))
    assert metrics.accuracy == pytest.approx(accuracy_score(y, predicted))
    assert np.array_equal(metrics.confusion, confusion_matrix(y, predicted, labels=labels))
    for label in present:
        one, true, positive = metrics.per_class[label], y == label, predicted == label
        assert one.n == (y == label).sum()
        assert one.precision == precision_score(true, positive, zero_division=0)
        assert (one.recall, one.f1) == (recall_score(true, positive), f1_score(true, positive))
        assert one.average_precision == average_precision_score(y == label, probabilities[:, label])


@RELAXED
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.integers(3, 12))
def test_auroc_and_average_precision_equal_those_of_scikit_learn(seed: int, n_classes: int) -> None:
    probabilities, y = softmax(seed, 100, n_classes)
    y[:n_classes] = np.arange(n_classes)
    metrics = evaluate(probabilities, y)
    one_hot = np.eye(n_classes)[y]
    assert metrics.auroc == pytest.approx(roc_auc_score(one_hot, probabilities, average="macro"))
    assert metrics.average_precision == pytest.approx(average_precision_score(one_hot, probabilities, average="macro"))
    assert metrics.auroc is not None
    assert metrics.gini == 2 * metrics.auroc - 1


def test_two_classes_have_one_auroc() -> None:
    probabilities, y = softmax(0, 100, 2)
    metrics = evaluate(probabilities, y)
    assert metrics.auroc == pytest.approx(roc_auc_score(y, probabilities[:, 1]))


def test_a_class_without_test_samples_has_no_metrics() -> None:
    probabilities = float32([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    metrics = evaluate(probabilities, np.array([0, 1, 1, 0]))
    assert metrics.per_class[2] == ClassMetrics(
        n=0, precision=None, recall=None, f1=None, auroc=None, average_precision=None
    )
    assert metrics.macro_recall == 0.75
    assert metrics.confusion == ((2, 0, 0), (0, 1, 1), (0, 0, 0))


def test_a_test_set_of_one_class_has_no_auroc() -> None:
    metrics = evaluate(float32([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0]))
    assert (metrics.auroc, metrics.gini) == (None, None)
    assert metrics.average_precision == 1.0
    assert Metrics.model_validate_json(metrics.model_dump_json()) == metrics


@RELAXED
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 1000))
def test_accuracy_is_exactly_n_correct_divided_by_n(seed: int, n: int) -> None:
    probabilities, y = softmax(seed, n, 3)
    metrics = evaluate(probabilities, y)
    n_correct = sum(int(row.argmax() == label) for row, label in zip(probabilities, y, strict=True))
    assert (metrics.n, metrics.n_correct, metrics.accuracy) == (n, n_correct, n_correct / n)


def test_a_class_that_is_never_predicted_has_precision_0() -> None:
    probabilities = np.tile(float32([0.9, 0.1, 0]), (4, 1))
    with warnings.catch_warnings(action="error"):
        warnings.simplefilter("ignore", ResourceWarning)  # of garbage that other tests left
        metrics = evaluate(probabilities, np.array([0, 0, 1, 2]))
    assert metrics.macro_recall == pytest.approx(1 / 3)


def test_a_wrong_prediction_with_probability_1_has_a_finite_loss() -> None:
    metrics = evaluate(float32([[1, 0]]), np.array([1]))
    assert 15 < metrics.loss < 17


def read_predictions(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_csv_keeps_every_float32_exactly(tmp_path: Path) -> None:
    probabilities, y = softmax(0, 100, 3)
    write_predictions(tmp_path / "p.csv", probabilities, y, ("a", "b", "c"))
    rows = read_predictions(tmp_path / "p.csv")
    written = np.array([[np.float32(row[f"p_{name}"]) for name in "abc"] for row in rows])
    assert np.array_equal(written, probabilities)
    assert np.array_equal([np.float32(row["confidence"]) for row in rows], probabilities.max(axis=1))


def test_predictions_csv_names_sample_label_and_predicted_class(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", float32([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1]), ("cat", "dog"))
    assert (tmp_path / "p.csv").read_text() == (
        "sample,label,predicted,confidence,p_cat,p_dog\n0,cat,dog,0.75,0.25,0.75\n1,dog,cat,0.5,0.5,0.5\n"
    )


def test_predictions_csv_quotes_class_names(tmp_path: Path) -> None:
    names = ('a,"b"', "c\nd", "ä")
    write_predictions(tmp_path / "p.csv", float32([[0, 0, 1]]), np.array([0]), names)
    (row,) = read_predictions(tmp_path / "p.csv")
    assert (row["label"], row["predicted"]) == ('a,"b"', "ä")


def test_predictions_csv_keeps_a_carriage_return_in_a_class_name(tmp_path: Path) -> None:
    names = ("a\r", "b\rc", 'd\r\n"')
    write_predictions(tmp_path / "p.csv", float32([[0, 0, 1], [1, 0, 0]]), np.array([0, 1]), names)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header[4:] == [f"p_{name}" for name in names]
    assert [row[1:3] for row in rows] == [[names[0], names[2]], [names[1], names[0]]]
