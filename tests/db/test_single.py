"""`pypredict predict`: single inputs are stored like any other, and answered by whoever is there to predict."""

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from bundles import picture, publish_bundle, publish_images, publish_texts
from workers import daemon, listens, rows, scalar, until, worker_for

from pypredict import PypredictError, promotion, registry
from pypredict.predictor import Models
from pypredict.single import predict_items
from pypredict.source import SourceError
from pypredict.worker import Worker


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_single_inputs_are_predicted_here_when_no_daemon_runs(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_images(models)
    files = [str(picture(tmp_path / f"{value}.png", value)) for value in (3, 4)]
    answers = predict_items(worker_for(engine, models), "pictures", files, 5)
    assert [(answer.item, answer.predicted) for answer in answers] == [(files[0], "ant"), (files[1], "bee")]
    assert answers[0].score == pytest.approx(0.9)
    assert rows(engine, "SELECT count(*) FROM ml.integrity") == [(0,)]


def test_a_text_that_no_file_can_be_named_by_is_predicted(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)
    (answer,) = predict_items(worker_for(engine, models), "reviews", ["good " * 80], 5)
    assert answer.predicted == "bee"


def test_a_text_for_a_model_of_images_is_named_however_long(engine: sa.Engine, models: Path) -> None:
    publish_images(models)
    with pytest.raises(SourceError, match="does not exist"):
        predict_items(worker_for(engine, models), "pictures", ["good " * 80], 5)


def test_the_same_single_input_again_is_answered_from_the_database(
    engine: sa.Engine, models: Path, tmp_path: Path
) -> None:
    publish_texts(models)
    first = predict_items(worker_for(engine, models), "reviews", ["good"], 5)
    assert predict_items(worker_for(engine, models), "reviews", ["good"], 5) == first
    assert rows(engine, "SELECT count(*) FROM ml.outcome WHERE NOT held_out") == [(1,)]


def test_a_single_input_after_a_new_training_is_answered_by_the_new_model(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)
    predict_items(worker_for(engine, models), "reviews", ["good"], 5)
    publish_texts(models, "newer")
    (answer,) = predict_items(worker_for(engine, models), "reviews", ["bad"], 0)
    assert answer.model == "newer"


def test_a_single_input_without_a_serving_model_is_refused_at_once(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)
    predict_items(worker_for(engine, models), "reviews", ["good"], 5)
    with engine.begin() as connection:
        promotion.retire(connection, registry.find_model(connection, "1"))
    with pytest.raises(PypredictError, match="no model serves reviews; train one, or see `pypredict models list`"):
        predict_items(worker_for(engine, models), "reviews", ["bad"], 30)


def test_a_single_input_on_which_the_model_raises_says_so_at_once(
    engine: sa.Engine, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_texts(models)
    predict_items(worker_for(engine, models), "reviews", ["good"], 5)

    def broken(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of its mind")

    monkeypatch.setattr("pypredict.single.time.sleep", lambda _: pytest.fail("it waited"))
    worker = Worker(engine, models, Models(models, lambda _: broken), "tester")
    with pytest.raises(PypredictError, match=r"bad \(chunk \d+\) is not predicted: out of its mind; "):
        predict_items(worker, "reviews", ["bad"], 30)


def test_single_inputs_are_predicted_by_the_running_daemon(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    class NeverHere(Worker):
        def run_chunk(self, chunk_id: int, dataset: str) -> bool:
            raise AssertionError("the daemon should have predicted it")

    publish_images(models)
    caller = NeverHere(engine, models, Models(models), "caller")
    with daemon(engine, models):
        until(lambda: listens(engine) and scalar(engine, "SELECT count(*) FROM ml.model") == 1)
        (answer,) = predict_items(caller, "pictures", [str(picture(tmp_path / "x.png", 5))], 20)
    assert answer.predicted == "cat"


def test_a_file_with_many_chunks_is_no_single_input(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_bundle(models)
    np.save(tmp_path / "many.npy", np.arange(32_016, dtype=np.uint8).reshape(-1, 4, 4, 1))
    with pytest.raises(PypredictError, match="use `pypredict load`"):
        predict_items(worker_for(engine, models), "toys", [str(tmp_path / "many.npy")], 5)
