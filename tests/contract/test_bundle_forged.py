"""`pyml test`, `pyml compare` and proposals read bundles of other people: a forged one is refused in one sentence."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from support.bundles import forge, publish_bundle
from support.forged_bundles import FORGED, publish_forged
from support.tflite_models import fake_model, lookup_model, pack

from bundle import BundleError
from bundle.publish import read_pointer
from pyml import PymlError
from pyml.evaluation.history import write_history
from pyml.evaluation.recheck import recheck
from pyml.promotion.proposal import Candidate, current_bundles, propose
from pyml.reports.compare import compare_runs, read_runs

# `pyml test` reads no pointer, no split and no vocabulary.
CHECKED = [name for name in FORGED if not name.startswith(("pointer", "split-g", "split-c", "words"))]
# A folder cannot be replaced, and the other pointer can be read.
POINTERS = [name for name in FORGED if name.startswith("pointer") and name not in ("pointer-folder", "pointer-time")]


@pytest.mark.parametrize("name", CHECKED)
def test_pyml_test_refuses_a_forged_bundle_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = publish_forged(tmp_path, name)
    with pytest.raises(BundleError) as error:
        recheck(path)
    assert FORGED[name][1] in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_pyml_test_refuses_a_model_that_predicts_nan(tmp_path: Path) -> None:
    table = np.full((256, 3), np.nan, np.float32)
    bundle = publish_bundle(tmp_path, serving=pack(lookup_model(table)))
    with pytest.raises(BundleError, match=r"bundles/toy: the model does not predict its test set \([^\n]*NaN"):
        recheck(bundle.path)


def test_pyml_compare_skips_forged_bundles_and_names_each_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = publish_bundle(tmp_path, serving=fake_model())
    write_history(good.path, [{"epoch": 1, "val_accuracy": 0.5, "val_loss": 1.0}])
    forged = [name for name in FORGED if name.startswith(("manifest", "class", "experiment", "shape", "metrics"))]
    for name in forged:
        publish_forged(tmp_path, name)
    os.mkfifo(publish_bundle(tmp_path, "history-fifo", dataset="a").path / "history.json")
    gate = publish_bundle(tmp_path, "gate", dataset="b").path
    write_history(gate, [])
    forge(gate, experiment={"promote_if": {"accuracy": "high"}})
    with caplog.at_level(logging.WARNING):
        (comparison,) = compare_runs(tmp_path)
    assert [run.name for run in comparison.runs] == ["toy"]
    for name in (*forged, "history-fifo", "gate"):
        assert sum(f"/{name}/" in record.message for record in caplog.records) == 1, name
    assert len(read_runs(tmp_path)) == 1


@pytest.mark.parametrize(
    "name", [name for name in FORGED if name.startswith("pointer") and name not in ("pointer-folder", "pointer-time")]
)
def test_a_proposal_replaces_a_forged_pointer(tmp_path: Path, name: str) -> None:
    path = publish_forged(tmp_path, name)
    assert current_bundles(tmp_path) == {}
    propose(tmp_path, publish_bundle(tmp_path, "good", dataset=name, seed=1, proposed=False).manifest)
    assert read_pointer(tmp_path / "current" / f"{path.name}.json").bundle_id == "good"


@pytest.mark.parametrize("epochs", [[], [{"epoch": 1.0}]], ids=["no_epoch", "no_accuracy"])
def test_a_candidate_without_its_best_epoch_is_refused(tmp_path: Path, epochs: list[dict[str, float]]) -> None:
    bundle = publish_bundle(tmp_path)
    write_history(bundle.path, epochs)
    with pytest.raises(PymlError, match=r"history\.json has no val_accuracy and val_loss of epoch 1; train again"):
        _ = Candidate(bundle, None).validation
