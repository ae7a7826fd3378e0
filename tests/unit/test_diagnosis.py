"""Diagnose a model: whether it learned, objections against promotion, misleading accuracy."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from support.bundles import manifest_for

from bundle.manifest import Manifest, Metrics
from pyml.evaluation.metrics import evaluate
from pyml.experiment.experiment import Experiment
from pyml.experiment.gate import Gate
from pyml.promotion.diagnosis import did_not_learn, imbalance, likely_causes, objections, warn

EXPERIMENT: dict[str, Any] = {
    "name": "x",
    "data": {"name": "digits", "validation": 0.1, "test": 0.1},
    "layers": [{"layer": "Dense", "units": 10, "activation": "softmax"}],
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "loss": "sparse_categorical_crossentropy",
    "epochs": 9,
    "batch_size": 8,
}


def guess(seed: int, sizes: tuple[int, ...], signal: float = 0.0) -> Metrics:
    """Give the metrics of a model that guesses, or that learned if signal is not 0. sizes: of the classes."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    scores = np.exp(rng.normal(size=(len(y), len(sizes))) + signal * np.eye(len(sizes))[y])
    return evaluate((scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), y)


def constant(sizes: tuple[int, ...]) -> Metrics:
    y = np.repeat(np.arange(len(sizes)), sizes)
    return evaluate(np.tile(np.float32(np.arange(len(sizes)) / sum(range(len(sizes)))), (len(y), 1)), y)


@pytest.mark.parametrize("sizes", [(50, 50), (30, 30, 30), (1000, 10), (20,) * 10])
def test_a_constant_prediction_is_not_learning(sizes: tuple[int, ...]) -> None:
    assert did_not_learn(constant(sizes))


@pytest.mark.parametrize("sizes", [(50, 50), (60, 60, 60), (900, 100), (36,) * 10])
def test_guessing_is_rarely_taken_for_learning(sizes: tuple[int, ...]) -> None:
    assert sum(did_not_learn(guess(seed, sizes)) for seed in range(30)) >= 27


@pytest.mark.parametrize("sizes", [(50, 50), (60, 60, 60), (900, 100), (36,) * 10])
def test_learning_is_not_taken_for_guessing(sizes: tuple[int, ...]) -> None:
    assert not any(did_not_learn(guess(seed, sizes, signal=1.0)) for seed in range(30))


def test_a_constant_prediction_with_good_auroc_is_learning() -> None:
    y = np.repeat([0, 1], [90, 10])
    rare = np.linspace(0.1, 0.4, 100, dtype=np.float32)
    metrics = evaluate(np.stack([1 - rare, rare], axis=1), y)
    assert metrics.macro_recall == 0.5
    assert not did_not_learn(metrics)


def test_a_test_set_of_one_class_cannot_show_learning() -> None:
    assert not did_not_learn(constant((20, 0)))


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"accuracy": 0.9}, ()),
        ({"accuracy": 0.95}, ()),
        ({"accuracy": 0.98}, ("its accuracy 0.95 is below 0.98",)),
        ({"loss": 0.4}, ("its loss 0.5 is above 0.4",)),
        ({"loss": 0.5}, ()),
        ({"auroc": 0.5}, ("its auroc is not known, 0.5 is needed",)),
        (
            {"macro_f1": 0.6, "macro_recall": 0.6, "loss": 1},
            ("its macro_recall 0.5 is below 0.6", "its macro_f1 0.5 is below 0.6"),
        ),
    ],
)
def test_objections_name_each_metric_that_misses_the_gate(gate: dict[str, float], said: tuple[str, ...]) -> None:
    macro = {"macro_precision": 0.5, "macro_recall": 0.5, "macro_f1": 0.5}
    metrics = Metrics(n=20, n_correct=19, accuracy=0.95, loss=0.5, **macro)
    assert objections(metrics, Gate.model_validate(gate)) == said


def test_objections_without_a_gate_name_only_failed_learning() -> None:
    assert objections(guess(0, (36,) * 10, signal=1.0), None) == ()
    assert objections(constant((36,) * 10), None) == ("it did not learn",)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({}, 'name at least one metric, for example {"accuracy": 0.98}'),
        ({"acuracy": 0.9}, "unknown key acuracy, did you mean accuracy?"),
        ({"accuracy": 98}, "less than or equal to 1"),
        ({"loss": 0}, "greater than 0"),
        ({"accuracy": "0.9"}, "valid number"),
    ],
)
def test_an_invalid_gate_is_refused(gate: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate({**EXPERIMENT, "promote_if": gate})
    assert message in str(caught.value)


EPOCHS = [{"epoch": 1 + n, "seconds": 1.0, "loss": 2.3, "accuracy": 0.1} for n in range(3)]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"loss": 2.3}, "the loss stayed at 2.3: raise the learning rate 0.01"),
        ({"loss": 60.0}, "the loss reached 60, guessing has 2.3: lower the learning rate 0.01"),
        ({"accuracy": 0.99}, "it overfits (training accuracy 0.990)"),
    ],
)
def test_the_likeliest_cause_is_first(change: dict[str, float], cause: str) -> None:
    epochs = [*EPOCHS[:2], {**EPOCHS[2], **change}]
    causes = likely_causes(constant((36,) * 10), epochs, 0.01)
    assert causes[0].startswith(cause)
    assert len(causes) == 3


def test_a_single_epoch_is_named_as_a_cause() -> None:
    causes = likely_causes(constant((36,) * 10), EPOCHS[:1], 0.01)
    assert "it trained for only 1 epoch" in causes


@pytest.mark.parametrize(
    ("sizes", "warned"), [((50, 50), False), ((66, 34), False), ((67, 33), True), ((5, 5, 1), True)]
)
def test_unbalanced_classes_give_a_warning(sizes: tuple[int, ...], warned: bool) -> None:
    metrics = guess(0, sizes, signal=3.0)
    assert (imbalance(metrics, "abc"[: len(sizes)]) is not None) is warned


def test_the_warning_has_the_accuracy_of_a_constant_prediction() -> None:
    said = imbalance(guess(0, (90, 10), signal=3.0), ("healthy", "ill"))
    assert said is not None
    assert "(90 'healthy', 10 'ill'): a model that always predicts 'healthy' has accuracy 0.9000; use macro F1" in said


def test_a_class_without_test_samples_gives_no_warning() -> None:
    assert imbalance(guess(0, (30, 30, 0), signal=3.0), "abc") is None


def published(metrics: Metrics) -> Manifest:
    x = np.zeros((metrics.n, 4), np.uint8)
    manifest = manifest_for("toy-1", x, np.zeros(metrics.n))
    files = {"model.h5": {"sha256": "0" * 64, "size": 1}}
    return Manifest.model_validate({**manifest.model_dump(), "metrics": metrics, "files": files})


def test_each_warning_is_one_line() -> None:
    manifest = published(constant((60, 30, 5)))
    learned, misleading = warn(manifest, EPOCHS, 0.01)
    assert learned.startswith("did not learn: mean recall 0.3333 and AUROC 0.5000 are no better than guessing among 3")
    assert misleading.startswith("accuracy is misleading")
    assert warn(published(guess(0, (30, 30, 30), signal=3.0)), EPOCHS, 0.01) == []
