"""Figures and predictions.csv."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support

from pyml.metrics import evaluate, write_predictions


def softmax(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.normal(size=(n, n_classes)) * 3)
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), rng.integers(0, n_classes, n)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200), n_classes=st.integers(2, 12))
def test_figures_are_scikit_learns(seed: int, n: int, n_classes: int) -> None:
    probabilities, y = softmax(seed, n, n_classes)
    metrics = evaluate(probabilities, y)
    predicted, labels = probabilities.argmax(axis=1), np.arange(n_classes)
    macro = precision_recall_fscore_support(y, predicted, labels=labels, average="macro", zero_division=0)[:3]
    assert (metrics.macro_precision, metrics.macro_recall, metrics.macro_f1) == macro
    assert metrics.loss == pytest.approx(log_loss(y, probabilities, labels=labels))
    assert metrics.accuracy == pytest.approx(accuracy_score(y, predicted))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 1000))
def test_accuracy_is_the_quotient_of_two_integers_to_the_last_digit(seed: int, n: int) -> None:
    probabilities, y = softmax(seed, n, 3)
    metrics = evaluate(probabilities, y)
    n_correct = sum(int(row.argmax() == label) for row, label in zip(probabilities, y, strict=True))
    assert (metrics.n, metrics.n_correct, metrics.accuracy) == (n, n_correct, n_correct / n)


def test_a_class_that_is_never_predicted_counts_as_zero_without_a_warning() -> None:
    probabilities = np.tile(np.float32([0.9, 0.1, 0]), (4, 1))
    with warnings.catch_warnings(action="error"):
        metrics = evaluate(probabilities, np.array([0, 0, 1, 2]))
    assert metrics.macro_recall == pytest.approx(1 / 3)


def test_a_certain_mistake_has_a_finite_loss() -> None:
    metrics = evaluate(np.float32([[1, 0]]), np.array([1]))
    assert 15 < metrics.loss < 17


def read_predictions(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_csv_gives_back_every_float32_exactly(tmp_path: Path) -> None:
    probabilities, y = softmax(0, 100, 3)
    write_predictions(tmp_path / "p.csv", probabilities, y, ("a", "b", "c"))
    rows = read_predictions(tmp_path / "p.csv")
    written = np.array([[np.float32(row[f"p_{name}"]) for name in "abc"] for row in rows])
    assert np.array_equal(written, probabilities)
    assert np.array_equal([np.float32(row["confidence"]) for row in rows], probabilities.max(axis=1))


def test_predictions_csv_names_sample_label_and_predicted_class(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", np.float32([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1]), ("cat", "dog"))
    assert (tmp_path / "p.csv").read_text() == (
        "sample,label,predicted,confidence,p_cat,p_dog\n0,cat,dog,0.75,0.25,0.75\n1,dog,cat,0.5,0.5,0.5\n"
    )


def test_predictions_csv_quotes_what_class_names_may_hold(tmp_path: Path) -> None:
    names = ('a,"b"', "c\nd", "ä")
    write_predictions(tmp_path / "p.csv", np.float32([[0, 0, 1]]), np.array([0]), names)
    (row,) = read_predictions(tmp_path / "p.csv")
    assert (row["label"], row["predicted"]) == ('a,"b"', "ä")
