"""`pypredict predict`: single inputs are stored, and predicted by the running daemon or by this process."""

import re
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import fake_predict, publish_bundle, publish_images, publish_texts, write_image
from support.workers import daemon, listens, rows, scalar, until, worker_for

from pypredict import PypredictError, promotion, registry
from pypredict.models import Models
from pypredict.predict_items import UnansweredError, predict_items
from pypredict.worker import Worker


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_without_a_daemon_this_process_predicts(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_images(models)
    files = [str(write_image(tmp_path / f"{value}.png", value)) for value in (3, 4)]
    answers = predict_items(worker_for(engine, models), "pictures", files, 5)
    assert [(answer.item, answer.predicted) for answer in answers] == [(files[0], "ant"), (files[1], "bee")]
    assert answers[0].score == pytest.approx(0.9)
    assert rows(engine, "SELECT count(*) FROM ml.integrity") == [(0,)]


def test_a_text_too_long_for_a_file_name_is_predicted(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)
    (answer,) = predict_items(worker_for(engine, models), "reviews", ["good " * 80], 5)
    assert answer.predicted == "bee"


def test_a_broken_bundle_of_another_dataset_does_not_matter(engine: sa.Engine, models: Path) -> None:
    other = publish_bundle(models)
    publish_texts(models)
    worker_for(engine, models).run(until_empty=True)
    (other.path / "model.h5").unlink()
    (answer,) = predict_items(worker_for(engine, models), "reviews", ["good"], 5)
    assert answer.predicted == "ant"


def test_one_array_of_the_models_shape_is_predicted(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_bundle(models)
    for name, shape in (("one", (4, 4, 1)), ("flat", (4, 4)), ("stack", (1, 4, 4))):
        np.save(tmp_path / f"{name}.npy", np.full(shape, 4))
    files = [str(path) for path in sorted(tmp_path.glob("*.npy"))]
    answers = predict_items(worker_for(engine, models), "toys", files, 5)
    assert [(answer.item, answer.predicted) for answer in answers] == [(file, "bee") for file in files]


def test_each_array_of_a_stack_is_named_by_its_row(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_bundle(models)
    np.save(tmp_path / "x.npy", np.stack([np.full((4, 4), value) for value in (2, 0)]))
    answers = predict_items(worker_for(engine, models), "toys", [str(tmp_path / "x.npy")], 5)
    assert [(answer.item, answer.predicted) for answer in answers] == [
        (f"{tmp_path}/x.npy, row 0", "cat"),
        (f"{tmp_path}/x.npy, row 1", "ant"),
    ]


def test_predict_ignores_labels(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_bundle(models)
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 4, 4)), y=np.array(["wasp"]))
    (answer,) = predict_items(worker_for(engine, models), "toys", [str(tmp_path / "x.npz")], 5)
    assert answer.predicted == "ant"


def test_bad_inputs_are_named_and_good_inputs_are_predicted(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_images(models)
    (tmp_path / "broken.png").write_bytes(b"")
    good = [str(write_image(tmp_path / f"{value}.png", value)) for value in (3, 4)]
    items = [str(tmp_path / "absent.png"), good[0], str(tmp_path / "broken.png"), good[1]]
    with pytest.raises(UnansweredError) as raised:
        predict_items(worker_for(engine, models), "pictures", items, 5)
    assert [(answer.item, answer.predicted) for answer in raised.value.answers] == [(good[0], "ant"), (good[1], "bee")]
    said = str(raised.value)
    assert said.startswith(f"2 of 4 inputs could not be predicted: {tmp_path}/absent.png does not exist; ")
    assert f"{tmp_path}/broken.png is not a readable image" in said


def test_an_input_with_a_bad_output_is_named(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)

    def picky(arrays: np.ndarray) -> np.ndarray:
        return np.where(arrays[:, -1:] == 5, np.nan, fake_predict(arrays))

    with pytest.raises(UnansweredError, match=r"1 of 2 inputs could not be predicted: bad: bad_output") as raised:
        predict_items(worker_for(engine, models, picky), "reviews", ["bad", "good"], 5)
    assert [answer.predicted is None for answer in raised.value.answers] == [True, False]


@pytest.mark.parametrize("item", ["none.txt", "my film.JPG", "none/here", "./none", "~/a film", "/none of these"])
def test_a_text_that_looks_like_a_missing_file_is_refused(engine: sa.Engine, models: Path, item: str) -> None:
    publish_texts(models)
    with pytest.raises(PypredictError, match=f"^{item} looks like a file and does not exist; .*--text"):
        predict_items(worker_for(engine, models), "reviews", [item], 5)
    assert rows(engine, "SELECT count(*) FROM ml.chunk WHERE source = 'command line'") == [(0,)]
    assert predict_items(worker_for(engine, models), "reviews", [item], 5, as_text=True)


@pytest.mark.parametrize("item", ["good/bad film", "a good film<br />", "good.", "the film at www.example.org"])
def test_a_text_with_a_slash_or_a_dot_is_not_a_file(engine: sa.Engine, models: Path, item: str) -> None:
    publish_texts(models)
    assert predict_items(worker_for(engine, models), "reviews", [item], 5)


@pytest.mark.parametrize("item", ["", "  \n", "?!"])
def test_a_text_without_a_word_is_refused(engine: sa.Engine, models: Path, item: str) -> None:
    publish_texts(models)
    for as_text in (False, True):
        with pytest.raises(PypredictError, match=re.escape(f"the text {item!r} holds no word")):
            predict_items(worker_for(engine, models), "reviews", [item], 5, as_text=as_text)
    assert rows(engine, "SELECT count(*) FROM ml.chunk WHERE source = 'command line'") == [(0,)]


def test_a_text_file_is_predicted_as_one_text(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_texts(models)
    (tmp_path / "review.txt").write_text("A good film,\nreally good " + "good " * 9)
    (answer,) = predict_items(worker_for(engine, models), "reviews", [str(tmp_path / "review.txt")], 5)
    assert (answer.item, answer.predicted) == (str(tmp_path / "review.txt"), "bee")


def test_a_long_text_for_a_model_of_images_is_refused(engine: sa.Engine, models: Path) -> None:
    publish_images(models)
    with pytest.raises(PypredictError, match="does not exist"):
        predict_items(worker_for(engine, models), "pictures", ["good " * 80], 5)


def test_a_repeated_input_is_answered_from_the_database(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_texts(models)
    first = predict_items(worker_for(engine, models), "reviews", ["good"], 5)
    assert predict_items(worker_for(engine, models), "reviews", ["good"], 5) == first
    assert rows(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == [(1,)]


def test_a_new_model_predicts_single_inputs(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)
    predict_items(worker_for(engine, models), "reviews", ["good"], 5)
    publish_texts(models, "newer")
    (answer,) = predict_items(worker_for(engine, models), "reviews", ["bad"], 0)
    assert answer.model == "newer"


def test_without_a_serving_model_inputs_are_refused_at_once(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)
    predict_items(worker_for(engine, models), "reviews", ["good"], 5)
    with engine.begin() as connection:
        promotion.retire(connection, registry.find_model(connection, "1"))
    with pytest.raises(PypredictError, match="no model serves reviews; train one, or see `pypredict models list`"):
        predict_items(worker_for(engine, models), "reviews", ["bad"], 30)


def test_an_error_of_the_model_is_reported_at_once(
    engine: sa.Engine, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_texts(models)
    predict_items(worker_for(engine, models), "reviews", ["good"], 5)

    def broken(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of its mind")

    monkeypatch.setattr("pypredict.predict_items.time.sleep", lambda _: pytest.fail("it waited"))
    worker = Worker(engine, models, Models(models, lambda _: broken), "tester")
    with pytest.raises(PypredictError, match=r"bad \(chunk \d+\) is not predicted: out of its mind; "):
        predict_items(worker, "reviews", ["bad"], 30)


def test_a_running_daemon_predicts_single_inputs(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    class NeverHere(Worker):
        def run_chunk(self, chunk_id: int, dataset: str) -> bool:
            raise AssertionError("the daemon should have predicted it")

    publish_images(models)
    caller = NeverHere(engine, models, Models(models), "caller")
    with daemon(engine, models):
        until(lambda: listens(engine) and scalar(engine, "SELECT count(*) FROM ml.model") == 1)
        (answer,) = predict_items(caller, "pictures", [str(write_image(tmp_path / "x.png", 5))], 20)
    assert answer.predicted == "cat"


def test_a_file_with_many_chunks_is_refused(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_bundle(models)
    np.save(tmp_path / "many.npy", np.arange(32_016, dtype=np.uint8).reshape(-1, 4, 4, 1))
    with pytest.raises(PypredictError, match="use `pypredict load`"):
        predict_items(worker_for(engine, models), "toys", [str(tmp_path / "many.npy")], 5)
