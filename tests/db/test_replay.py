"""`pypredict check --replay`: real models in LiteRT, real rows; a changed bit is found and named."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import arrays_and_labels, publish_bundle
from support.prune import prune
from support.tflite_models import dense_model, pack
from support.workers import load, rows, scalar
from typer.testing import CliRunner

from bundle.inference.load import load_model
from bundle.verify import Bundle
from pypredict import PypredictError, promotion, registry
from pypredict.cli import app
from pypredict.models import Models, open_registered
from pypredict.replay import parse_amount, replay_predictions
from pypredict.worker import Worker

N_TEST, N_MORE = 30, 2_500


@pytest.fixture
def predicted(engine: sa.Engine, tmp_path: Path) -> Bundle:
    """A real model that has predicted its test set and 2,500 more inputs, with two workers at once."""
    bundle = publish_bundle(tmp_path, n=N_TEST, serving=pack(dense_model()))
    with engine.begin() as connection:  # of two workers that register it at once, the winner may get number 2
        promotion.promote(connection, registry.register_model(connection, bundle))
    load(engine, bundle, arrays_and_labels(N_MORE, seed=1)[0])
    workers = [Worker(engine, tmp_path, Models(tmp_path), name, poll_seconds=0.05) for name in ("first", "second")]
    with ThreadPoolExecutor() as threads:
        assert sum(threads.map(lambda worker: worker.run(until_empty=True), workers)) == N_TEST + N_MORE
    return bundle


def repeat(engine: sa.Engine, models: Path, n: int | None = None) -> tuple[str, list[str]]:
    with engine.begin() as connection:
        replayed = replay_predictions(connection, models, n)
    return str(replayed), replayed.problems


def change(owner: sa.Engine, statement: str) -> int:
    with owner.begin() as connection:
        return int(connection.execute(sa.text(statement)).scalar_one())


def test_all_predictions_are_repeated_bit_for_bit(engine: sa.Engine, tmp_path: Path, predicted: Bundle) -> None:
    assert repeat(engine, tmp_path) == ("2530 of 2530 predictions repeated bit for bit", [])


@pytest.mark.parametrize("n", [1, 1_001, 2_530])
def test_a_number_repeats_whole_chunks_until_it_is_reached(
    engine: sa.Engine, tmp_path: Path, predicted: Bundle, n: int
) -> None:
    said, problems = repeat(engine, tmp_path, n)
    repeated = int(said.split()[0])
    assert n <= repeated < n + 1_000
    assert said == f"{repeated} of {repeated} predictions repeated bit for bit (whole chunks, for at least {n})"
    assert problems == []


def test_no_more_chunks_are_repeated_than_needed(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, n=1_000, serving=pack(dense_model()))
    load(engine, bundle, arrays_and_labels(1_000, seed=1)[0])
    Worker(engine, tmp_path, Models(tmp_path), "tester", poll_seconds=0.05).run(until_empty=True)
    said, _ = repeat(engine, tmp_path, 1_000)
    assert said.startswith("1000 of 1000 predictions repeated")


def test_the_number_of_rows_in_a_call_changes_no_bit(engine: sa.Engine, tmp_path: Path, predicted: Bundle) -> None:
    stored = rows(engine, "SELECT i.payload, p.probs FROM ml.prediction p JOIN ml.input i USING (input_id) LIMIT 100")
    model = load_model(predicted)
    for payload, probs in stored:
        array = np.frombuffer(bytes(payload)[-16:], np.uint8).reshape(1, 4, 4, 1)
        assert model.predict(array).tobytes() == np.array([probs], np.float32).tobytes()


def test_a_flipped_bit_in_a_probability_is_found(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, predicted: Bundle
) -> None:
    """The smallest possible change: the next number of REAL, in the smallest probability of a row."""
    ((input_id, probs),) = rows(engine, "SELECT input_id, probs FROM ml.prediction ORDER BY input_id LIMIT 1 OFFSET 7")
    place = int(np.argmin(probs))
    other = np.nextafter(np.float32(probs[place]), np.float32(1))
    assert (
        change(
            owner,
            f"UPDATE ml.prediction SET probs[{place + 1}] = {float(other)!r} WHERE input_id = {input_id} RETURNING 1",
        )
        == 1
    )
    said, problems = repeat(engine, tmp_path)
    assert said == "2529 of 2530 predictions repeated bit for bit"
    chunk_id = scalar(engine, f"SELECT chunk_id FROM ml.input WHERE input_id = {input_id}")
    assert problems == [
        f"model 1, chunk {chunk_id}: the model gives other values for 1 of 1000 inputs; input_id {input_id}",
    ]


@pytest.mark.parametrize("column", ["class_no = 1 - class_no % 2", "score = score * 0.999"])
def test_a_class_or_score_that_differs_from_the_probabilities_is_found(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, predicted: Bundle, column: str
) -> None:
    change(owner, f"UPDATE ml.prediction SET {column} WHERE input_id = 3 RETURNING 1")
    said, problems = repeat(engine, tmp_path)
    assert said.startswith("2529 of 2530 predictions")
    assert [problem.rsplit("; ", 1)[1] for problem in problems] == ["input_id 3"]


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_a_payload_is_found(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, predicted: Bundle, bit: int
) -> None:
    place = 8 * (128 + 5) + bit  # the sixth pixel, after the header of 128 bytes
    flip = f"set_bit(payload, {place}, 1 - get_bit(payload, {place}))"
    chunk_id = change(owner, f"UPDATE ml.input SET payload = {flip} WHERE input_id = 11 RETURNING chunk_id")
    _, problems = repeat(engine, tmp_path)
    changed = f"chunk {chunk_id}: the stored arrays or labels have changed since they were loaded; restore a backup"
    assert problems[0] == changed
    assert problems[1:] == [
        f"model 1, chunk {chunk_id}: the model gives other values for 1 of 1000 inputs; input_id 11"
    ]


def test_a_payload_that_is_unreadable_now_is_found(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, predicted: Bundle
) -> None:
    cut = "UPDATE ml.input SET payload = substring(payload from 1 for 100) WHERE input_id = 11 RETURNING 1"
    change(owner, cut)
    said, problems = repeat(engine, tmp_path)
    assert said == "2529 of 2530 predictions repeated bit for bit"
    assert len(problems) == 2
    assert problems[1].endswith("input_id 11")


def test_another_processor_may_differ_a_little_and_is_named(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, predicted: Bundle
) -> None:
    change(owner, "WITH c AS (UPDATE ml.job SET processor = 'Abacus 9' RETURNING 1) SELECT count(*) FROM c")
    change(owner, "UPDATE ml.prediction SET probs[1] = probs[1] + 5e-7 WHERE input_id = 2 AND class_no > 0 RETURNING 1")
    said, problems = repeat(engine, tmp_path)
    assert said.startswith("0 of 2530 predictions repeated bit for bit; 2530 made with litert ")
    assert " on Abacus 9 repeated with litert " in said
    assert said.endswith("with differences of at most 1e-06")
    assert problems == []
    change(owner, "UPDATE ml.prediction SET probs[1] = probs[1] + 5e-6 WHERE input_id = 2 AND class_no > 0 RETURNING 1")
    _, problems = repeat(engine, tmp_path)
    assert [problem.rsplit("; ", 1)[1] for problem in problems] == ["input_id 2"]


def test_predictions_of_a_missing_bundle_are_a_problem(engine: sa.Engine, tmp_path: Path, predicted: Bundle) -> None:
    predicted.path.rename(tmp_path / "elsewhere")
    said, problems = repeat(engine, tmp_path)
    assert said == "0 of 2530 predictions repeated bit for bit"
    assert len(problems) == 1
    assert problems[0].startswith("the predictions of model 1 cannot be repeated: ")


def test_another_model_file_under_the_same_id_is_a_problem(
    engine: sa.Engine, tmp_path: Path, predicted: Bundle
) -> None:
    other = publish_bundle(tmp_path / "other", n=N_TEST, serving=pack(dense_model(seed=1)))
    predicted.path.rename(tmp_path / "elsewhere")
    other.path.rename(predicted.path)
    _, problems = repeat(engine, tmp_path)
    assert len(problems) == 1
    assert "holds another model than the registered one; restore it" in problems[0]


@pytest.mark.parametrize("given", ["0", "-1", "some", "1.5", "", "²"])
def test_a_wrong_amount_is_refused(given: str) -> None:
    with pytest.raises(PypredictError, match="give a number of predictions from 1 on, or all"):
        parse_amount(given)


def problems_of(db: Database, meanwhile: Callable[[], object], *command: str) -> str:
    """Call a command in this process, and another function after it has read the models; return the problems."""

    def wait_and_open(directory: Path, model: registry.Model) -> Bundle:
        meanwhile()
        return open_registered(directory, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pypredict.replay.open_registered", wait_and_open)
        called = CliRunner().invoke(app, command, env={"DATABASE_URL": db.url("pypredict")})
    assert isinstance(called.exception, PypredictError), called.exception
    return str(called.exception)


@pytest.mark.parametrize("command", [["check"], ["report", "--html", "report.html"]], ids=["check", "report"])
def test_model_that_takes_longer_than_the_servers_timeout_is_waited_for(
    db: Database,
    owner: sa.Engine,
    tmp_path: Path,
    predicted: Bundle,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bundle's accuracy is that of another model: the only problem."""
    with owner.begin() as connection:
        timeout = "SET idle_in_transaction_session_timeout = '1s'"
        connection.execute(sa.text(f'ALTER ROLE pypredict IN DATABASE "{db.name}" {timeout}'))
    monkeypatch.chdir(tmp_path)
    said = problems_of(db, lambda: time.sleep(2), *command, "--replay", "1", "--models", str(tmp_path))
    assert said.startswith("model 1 (toy): SQL counts ")
    assert "; " not in said


def test_inputs_pruned_meanwhile_are_no_problem(
    db: Database, engine: sa.Engine, tmp_path: Path, predicted: Bundle
) -> None:
    said = problems_of(
        db,
        lambda: prune(db, "inputs", "--source", "a test", "--yes"),
        *("check", "--replay", "all", "--models", str(tmp_path)),
    )
    assert scalar(engine, "SELECT count(*) FROM ml.input") == N_TEST
    assert said.startswith("model 1 (toy): SQL counts ")
    assert "; " not in said


def test_the_command_exits_with_1_and_names_the_input(
    db: Database, owner: sa.Engine, tmp_path: Path, predicted: Bundle
) -> None:
    """The bundle's accuracy is that of another model, so SQL differs from the manifest, too."""
    change(owner, "UPDATE ml.prediction SET score = score * 0.999 WHERE input_id = 3 RETURNING 1")
    program = str(Path(sys.executable).with_name("pypredict"))
    command = [program, "check", "--replay", "all", "--models", str(tmp_path)]
    environment = os.environ | {"DATABASE_URL": db.url("pypredict")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2529 of 2530 predictions repeated bit for bit" in done.stderr
    assert "the model gives other values for 1 of 1000 inputs; input_id 3" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
