"""Propose the current model of a dataset, and log why others are not proposed."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from support.bundles import publish_bundle

from bundle.manifest import ClassMetrics, read_manifest
from bundle.publish import Pointer, pointers, read_pointer
from bundle.verify import Bundle
from pyml.experiment.gate import Gate
from pyml.promotion.proposal import Candidate, propose_best


def publish(
    models: Path,
    name: str,
    val_accuracy: float = 0.5,
    *,
    dataset: str = "toys",
    n: int = 30,
    n_correct: int | None = None,
    seed: int = 0,
) -> Bundle:
    """Publish a bundle that is not proposed, with this validation accuracy in its best epoch."""
    bundle = publish_bundle(models, name, proposed=False, dataset=dataset, n=n, n_correct=n_correct, seed=seed)
    epoch = {"epoch": 1, "seconds": 1, "val_accuracy": val_accuracy, "val_loss": 1 - val_accuracy}
    (bundle.path / "history.json").write_text(json.dumps([epoch]))
    return bundle


def current(models: Path, dataset: str = "toys") -> Pointer | None:
    path = pointers(models).get(dataset)
    return None if path is None else read_pointer(path)


def propose(models: Path, *bundles: Bundle, gate: Gate | None = None, promote: bool = False) -> str | None:
    """Propose the best of the bundles. Give the id of the current bundle of toys."""
    propose_best(models, [Candidate(bundle, gate) for bundle in bundles], promote=promote)
    pointer = current(models)
    return None if pointer is None else pointer.bundle_id


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO)

    class Said(list[str]):
        def __contains__(self, part: object) -> bool:
            return any(str(part) in record.getMessage() for record in caplog.records)

    return Said()


def test_the_first_model_of_a_dataset_is_proposed(tmp_path: Path) -> None:
    assert propose(tmp_path, publish(tmp_path, "one")) == "one"


def test_the_best_on_the_validation_set_is_proposed(tmp_path: Path, said: list[str]) -> None:
    grid = [publish(tmp_path, name, accuracy) for name, accuracy in (("low", 0.6), ("best", 0.9), ("last", 0.7))]
    assert propose(tmp_path, *grid) == "best"
    assert "toys: best is the best of 3 experiments on the validation set, accuracy 0.9000" in said


def test_the_lower_validation_loss_decides_equal_accuracy(tmp_path: Path) -> None:
    for name, loss in (("high", 0.5), ("low", 0.4), ("middle", 0.45)):
        epoch = {"epoch": 1, "seconds": 1, "val_accuracy": 0.9, "val_loss": loss}
        (publish(tmp_path, name).path / "history.json").write_text(json.dumps([epoch]))
    bundles = [Bundle(path, read_manifest(path / "manifest.json")) for path in sorted((tmp_path / "bundles").iterdir())]
    assert propose(tmp_path, *bundles) == "low"


def test_each_dataset_has_its_own_best_model(tmp_path: Path) -> None:
    toys, birds = publish(tmp_path, "toy", 0.6), publish(tmp_path, "bird", 0.9, dataset="birds")
    assert propose(tmp_path, toys, birds) == "toy"
    pointer = current(tmp_path, "birds")
    assert pointer is not None
    assert pointer.bundle_id == "bird"


def test_a_model_that_misses_its_gate_is_not_proposed(tmp_path: Path, said: list[str]) -> None:
    bundle = publish(tmp_path, "one", n_correct=15)
    assert propose(tmp_path, bundle, gate=Gate(accuracy=0.98)) is None
    assert "one is not proposed: its accuracy 0.5 is below 0.98" in said


def test_the_best_model_that_passes_its_gate_is_proposed(tmp_path: Path) -> None:
    best_on_validation = publish(tmp_path, "a", 0.9, n_correct=15)
    good_on_test = publish(tmp_path, "b", 0.8, n_correct=29)
    assert propose(tmp_path, best_on_validation, good_on_test, gate=Gate(accuracy=0.9)) == "b"


def test_a_model_that_did_not_learn_is_not_proposed(tmp_path: Path, said: list[str]) -> None:
    bundle = publish(tmp_path, "one", n_correct=10)
    guess = ClassMetrics(n=10, precision=0.3, recall=1 / 3, f1=0.3, auroc=0.5, average_precision=0.3)
    update = {"per_class": (guess,) * 3, "auroc": 0.5, "macro_recall": 1 / 3}
    metrics = bundle.manifest.metrics.model_copy(update=update)
    chance = Bundle(bundle.path, bundle.manifest.model_copy(update={"metrics": metrics}))
    assert propose(tmp_path, chance) is None
    assert "one is not proposed: it did not learn" in said


def test_a_worse_model_on_the_same_test_set_is_not_proposed(tmp_path: Path, said: list[str]) -> None:
    propose(tmp_path, publish(tmp_path, "good", n=1000, n_correct=997))
    before = current(tmp_path)
    assert propose(tmp_path, publish(tmp_path, "poor", n=1000, n_correct=678)) == "good"
    assert current(tmp_path) == before
    assert (
        "poor is not proposed: its accuracy on the same test set is 0.6780, good has 0.9970; "
        "use --promote to propose it"
    ) in said


def test_a_model_with_equal_test_accuracy_is_proposed(tmp_path: Path) -> None:
    propose(tmp_path, publish(tmp_path, "old", n_correct=29))
    assert propose(tmp_path, publish(tmp_path, "new", n_correct=29)) == "new"


def test_promote_proposes_a_worse_model_and_marks_the_pointer(tmp_path: Path) -> None:
    propose(tmp_path, publish(tmp_path, "good", n_correct=29))
    assert propose(tmp_path, publish(tmp_path, "poor", n_correct=10), promote=True) == "poor"
    pointer = current(tmp_path)
    assert pointer is not None
    assert pointer.promote


def test_a_model_with_another_test_set_is_proposed(tmp_path: Path, said: list[str]) -> None:
    propose(tmp_path, publish(tmp_path, "old", n_correct=29, seed=1))
    assert propose(tmp_path, publish(tmp_path, "new", n_correct=10, seed=2)) == "new"
    assert "new is proposed: old was measured on another test set, so the two accuracies cannot be compared" in said


def test_the_pointer_to_the_same_model_changes_only_with_promote(tmp_path: Path) -> None:
    bundle = publish(tmp_path, "one")
    propose(tmp_path, bundle)
    before = current(tmp_path)
    propose(tmp_path, bundle)
    assert current(tmp_path) == before
    propose(tmp_path, bundle, promote=True)
    after = current(tmp_path)
    assert before is not None
    assert after is not None
    assert after.proposed_at > before.proposed_at


def test_a_new_model_replaces_a_broken_current_model(tmp_path: Path, said: list[str]) -> None:
    old = publish(tmp_path, "old", n_correct=29)
    propose(tmp_path, old)
    (old.path / "manifest.json").unlink()
    assert propose(tmp_path, publish(tmp_path, "new", n_correct=10)) == "new"
    assert "the accuracy of the current model is not known" in said


def test_test_sha256_is_equal_for_equal_arrays_and_labels(tmp_path: Path) -> None:
    same, other = publish(tmp_path, "a", seed=1), publish(tmp_path, "b", seed=2)
    again = publish(tmp_path, "c", seed=1)
    assert same.manifest.test_sha256 == again.manifest.test_sha256 != other.manifest.test_sha256
    assert np.load(same.path / "test_set.npz")["x"].shape == np.load(other.path / "test_set.npz")["x"].shape
