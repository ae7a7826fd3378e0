"""Every published bundle is registered by its id, and a broken bundle does not affect other datasets."""

import json
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import fake_predict, publish_bundle
from support.workers import load, load_predict_of, overlap, rows, worker_for

from bundle.verify import Bundle
from pypredict import PypredictError, promotion, registry
from pypredict.models import Models, Predict
from pypredict.publications import Publications


def never(_: Bundle) -> Predict:
    raise AssertionError("a model was loaded")


def test_published_bundles_are_registered_without_loading(engine: sa.Engine, tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish_bundle(tmp_path, name, proposed=False)
    models = Models(tmp_path, never)
    assert Publications(engine, tmp_path, models).import_new() == []
    assert rows(engine, "SELECT bundle_id, state FROM ml.model ORDER BY 1") == [
        ("one", "available"),
        ("two", "available"),
    ]
    assert rows(engine, "SELECT count(*) FROM ml.chunk UNION ALL SELECT count(*) FROM ml.job") == [(0,), (0,)]


@pytest.mark.parametrize(("option", "file"), [("weights", r"model\.h5"), ("serving", r"model\.tflite")])
def test_a_registered_id_with_another_model_file_is_refused(
    engine: sa.Engine, tmp_path: Path, option: str, file: str
) -> None:
    first, other = publish_bundle(tmp_path / "a", "one"), tmp_path / "b"
    second = (
        publish_bundle(other, "one", weights=b"other")
        if option == "weights"
        else publish_bundle(other, "one", weights=(first.path / "model.h5").read_bytes(), serving=b"other")
    )
    with engine.begin() as connection:
        registry.register_model(connection, first)
        assert registry.register_model(connection, first).bundle_id == "one"
        with pytest.raises(registry.RegistryError, match=f"bundle one is registered with another {file}; restore"):
            registry.register_model(connection, second)


def test_two_processes_register_a_bundle_once(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)

    def register(connection: sa.Connection) -> registry.Model:
        return registry.register_model(connection, bundle)

    assert overlap(engine, register, register).bundle_id == "toy"
    assert rows(engine, "SELECT bundle_id FROM ml.model") == [("toy",)]


@pytest.mark.parametrize("option", ["weights", "serving"])
def test_another_model_in_place_of_a_registered_one_is_not_loaded(
    engine: sa.Engine, tmp_path: Path, option: str
) -> None:
    first = publish_bundle(tmp_path, proposed=False)
    with engine.begin() as connection:
        promotion.promote(connection, registry.register_model(connection, first))
    load(engine, first, np.zeros((2, 4, 4, 1), np.uint8))
    kept = (first.path / "model.h5").read_bytes()
    second = (
        publish_bundle(tmp_path / "other", weights=b"other")
        if option == "weights"
        else publish_bundle(tmp_path / "other", weights=kept, serving=b"other")
    )
    first.path.rename(tmp_path / "first")
    second.path.rename(first.path)
    with pytest.raises(PypredictError, match=r"^0 inputs .*: bundle toy holds another model than the registered one"):
        worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(engine, "SELECT count(*) FROM ml.prediction") == [(0,)]


def test_an_available_model_predicts_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "serving", seed=1)
    publish_bundle(tmp_path, "available", seed=2, proposed=False)
    assert worker_for(engine, tmp_path).run(until_empty=True) == 30
    assert rows(engine, "SELECT DISTINCT m.name FROM ml.prediction JOIN ml.model m USING (model_id)") == [("serving",)]


def test_equal_weights_of_two_datasets_are_two_models(engine: sa.Engine, tmp_path: Path) -> None:
    """Two experiments with the same data under two dataset names give the same model.h5."""
    birds = publish_bundle(tmp_path, "birds", dataset="birds", weights=b"the same")
    toys = publish_bundle(tmp_path, "toys", dataset="toys", weights=b"the same")
    assert birds.model_sha256 == toys.model_sha256
    assert worker_for(engine, tmp_path).run(until_empty=True) == 60
    assert rows(engine, "SELECT dataset, agrees, n FROM ml.accuracy ORDER BY 1") == [
        ("birds", True, 30),
        ("toys", True, 30),
    ]
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_equal_weights_with_other_class_names_are_two_models(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "english", weights=b"the same")
    worker_for(engine, tmp_path).run(until_empty=True)
    publish_bundle(tmp_path, "german", weights=b"the same", classes=("Ameise", "Biene", "Katze"))
    worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(engine, "SELECT name, agrees, n FROM ml.accuracy ORDER BY 1") == [
        ("english", True, 30),
        ("german", True, 30),
    ]
    german = "SELECT DISTINCT predicted FROM ml.outcome JOIN ml.model m USING (model_id) WHERE m.name = 'german'"
    assert sorted(rows(engine, german)) == [("Ameise",), ("Biene",), ("Katze",)]


@pytest.mark.parametrize("damage", ["missing", "flipped", "manifest"])
def test_a_broken_bundle_does_not_stop_other_datasets(engine: sa.Engine, tmp_path: Path, damage: str) -> None:
    broken = publish_bundle(tmp_path, "broken", dataset="birds")
    publish_bundle(tmp_path, "whole", dataset="toys")
    if damage == "missing":
        (broken.path / "model.h5").unlink()
    elif damage == "flipped":
        (broken.path / "model.h5").write_bytes(b"model of BROKEN")
    else:
        (broken.path / "manifest.json").write_text("{")
    with pytest.raises(PypredictError, match=r"^30 inputs were predicted; the run is not complete: .*broken"):
        worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(engine, "SELECT dataset, agrees FROM ml.accuracy") == [("toys", True)]


def test_a_missing_bundle_does_not_stop_other_datasets(engine: sa.Engine, tmp_path: Path) -> None:
    for dataset in ("birds", "toys"):
        publish_bundle(tmp_path, dataset, dataset=dataset)
    worker_for(engine, tmp_path).run(until_empty=True)
    (tmp_path / "bundles/birds").rename(tmp_path / "elsewhere")
    publish_bundle(tmp_path, "newer", dataset="toys", seed=5)
    with pytest.raises(PypredictError, match=r"^30 inputs were predicted; the run is not complete: .*birds.*manifest"):
        worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(engine, "SELECT name FROM ml.model WHERE state = 'serving' ORDER BY 1") == [("birds",), ("newer",)]


def test_a_model_that_fails_to_load_does_not_stop_others(engine: sa.Engine, tmp_path: Path) -> None:
    for dataset in ("birds", "toys"):
        publish_bundle(tmp_path, dataset, dataset=dataset)
    Publications(engine, tmp_path, Models(tmp_path, lambda _: fake_predict)).import_new()
    with pytest.raises(
        PypredictError, match=r"^30 inputs were predicted; the run is not complete: birds does not load$"
    ):
        worker_for(engine, tmp_path, load=load_predict_of("toys")).run(until_empty=True)
    assert rows(engine, "SELECT state, failures FROM ml.job ORDER BY 1") == [("done", 0), ("pending", 0)]


def test_a_broken_bundle_without_a_proposal_is_only_logged(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_bundle(tmp_path, "whole", seed=1)
    broken = publish_bundle(tmp_path, "broken", seed=2, proposed=False)
    (broken.path / "test_set.npz").unlink()
    worker = worker_for(engine, tmp_path, poll_seconds=0.001)
    assert worker.run(until_empty=True) == 30
    assert caplog.text.count("broken is refused") == 1


def test_a_registered_bundle_is_not_verified_again(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_bundle(tmp_path, "one", proposed=False)
    Publications(engine, tmp_path, Models(tmp_path)).register_new()
    monkeypatch.setattr("pypredict.publications.open_bundle", lambda _: pytest.fail("it was verified again"))
    Publications(engine, tmp_path, Models(tmp_path)).register_new()


@pytest.mark.parametrize("given", ["2", "two"])
def test_a_model_is_found_by_number_and_by_bundle(engine: sa.Engine, tmp_path: Path, given: str) -> None:
    for name in ("one", "two"):
        publish_bundle(tmp_path, name, proposed=False)
        Publications(engine, tmp_path, Models(tmp_path)).register_new()
    with engine.begin() as connection:
        assert registry.find_model(connection, given).name == "two"
        with pytest.raises(registry.RegistryError, match=r"no model 99; the newest are 1 \(one\), 2 \(two\), "):
            registry.find_model(connection, "99")


def test_a_bundle_that_does_not_list_its_split_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    (bundle.path / "split.csv").write_text("part,sample\n")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["files"]["split.csv"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PypredictError, match=r"does not list split.csv; the bundle is incomplete"):
        worker_for(engine, tmp_path).run(until_empty=True)
