"""`pypredict prune` of inputs and predictions, as processes of the owner, beside workers, loads and other prunes."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import CLASSES, arrays_and_labels, fake_predict, publish_bundle, publish_texts
from support.prune import SHORT_LOCK, START, count, prune, pypredict, sentence
from support.workers import daemon, overlap, rows, scalar, until, worker_for

from bundle.verify import Bundle
from pypredict import deletion, jobs, promotion, registry, store
from pypredict.chunk import Chunk, cut
from pypredict.deletion import Unit
from pypredict.source import Preparation

TABLES = ("chunk", "test_set", "input", "input_name", "job", "prediction", "prediction_error", "suspect")
PER_CHUNK = 20


def chunks_of(bundle: Bundle, source: str, *, chunks: int = 3, seed: int = 1, labels: bool = False) -> list[Chunk]:
    """Make chunks of PER_CHUNK inputs each."""
    x, y = arrays_and_labels(chunks * PER_CHUNK, seed=seed)
    identity = Preparation(bundle.manifest).identity
    parts = [slice(start, start + PER_CHUNK) for start in range(0, len(x), PER_CHUNK)]
    classes = CLASSES if labels else None
    return [
        chunk
        for part in parts
        for chunk in cut(x[part], y[part] if labels else None, classes=classes, **identity, source=source)
    ]


def add(engine: sa.Engine, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        with engine.begin() as connection:
            store.load_chunk(connection, chunk)


def everything(engine: sa.Engine, chunks: str = "true") -> dict[str, list[object]]:
    """Read all rows of the chunks for which the SQL condition holds, of every table."""
    key = {"prediction": "input_id", "prediction_error": "input_id", "suspect": "input_id"}
    selected = f"SELECT chunk_id FROM ml.chunk WHERE {chunks}"
    inputs = f"SELECT input_id FROM ml.input WHERE chunk_id IN ({selected})"
    return {
        table: [
            row
            for (row,) in rows(
                engine,
                f"SELECT t::text FROM ml.{table} t WHERE {key.get(table, 'chunk_id')} IN"
                f" ({inputs if table in key else selected}) ORDER BY 1",
            )
        ]
        for table in TABLES
    }


@pytest.fixture
def toys(engine: sa.Engine, tmp_path: Path) -> Bundle:
    """A model that serves; three predicted chunks of each of the sources right and wrong."""
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    add(engine, chunks_of(bundle, "right", seed=1, labels=True))
    add(engine, chunks_of(bundle, "wrong", seed=2))
    worker_for(engine, tmp_path).run(until_empty=True)
    return bundle


@pytest.mark.usefixtures("toys")
def test_prune_without_yes_says_what_would_go_and_deletes_nothing(db: Database, owner: sa.Engine) -> None:
    before = everything(owner)
    said = prune(db, "inputs", "--source", "wrong")
    assert everything(owner) == before
    (row,) = [line.split() for line in said.splitlines() if line.split()[:1] == ["toys"]]
    payload = scalar(
        owner, "SELECT sum(octet_length(payload)) FROM ml.input i JOIN ml.chunk USING (chunk_id) WHERE source = 'wrong'"
    )
    assert row[:5] == ["toys", "wrong", "3", "60", "60"]
    assert int(row[5].replace(",", "")) > int(str(payload))
    assert f"60 inputs in 3 chunks with 60 predictions and errors, {row[5]} bytes. Nothing is deleted" in said


@pytest.mark.usefixtures("toys")
def test_prune_of_a_source_leaves_all_other_rows_as_they_are(db: Database, owner: sa.Engine) -> None:
    before = everything(owner, "source <> 'wrong'")
    assert "60 inputs in 3 chunks with 60 predictions and errors are deleted" in prune(
        db, "inputs", "--source", "wrong", "--yes"
    )
    assert count(owner, "chunk", "source = 'wrong'") == 0
    assert everything(owner) == before
    assert rows(owner, "SELECT * FROM ml.integrity") == []


@pytest.mark.usefixtures("toys")
def test_prune_by_age_takes_only_older_inputs(db: Database, owner: sa.Engine) -> None:
    with owner.begin() as connection:
        connection.execute(
            sa.text("UPDATE ml.chunk SET created_at = now() - interval '91 days' WHERE source = 'wrong'")
        )
        connection.execute(
            sa.text("UPDATE ml.chunk SET created_at = now() - interval '89 days' WHERE source = 'right'")
        )
    before = everything(owner, "source <> 'wrong'")
    prune(db, "inputs", "--older-than", "90d", "--yes")
    assert everything(owner) == before


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("login", ["pypredict", "reader"])
@pytest.mark.parametrize("what", [("inputs", "--source", "wrong"), ("predictions", "--retired"), ("bundles",)])
def test_prune_by_another_login_is_refused_with_the_owners_name(
    db: Database, owner: sa.Engine, login: str, what: tuple[str, ...]
) -> None:
    before = everything(owner)
    assert f"the login {login} may not delete; log in as ml_owner" in sentence(db, *what, "--yes", login=login)
    assert everything(owner) == before


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inputs",), "which inputs? give --source NAME, --dataset NAME or --older-than AGE"),
        (
            ("inputs", "--source", "wrnog"),
            "no input has the source wrnog; the newest sources are: wrong, right, test set of toy",
        ),
        (("inputs", "--dataset", "dogs"), "there is no dataset dogs; the known datasets are: toys"),
        (("inputs", "--older-than", "soon"), "--older-than 'soon': give a number and h, d or w"),
        (("inputs", "--source", "wrong", "--full"), "add --yes"),
        (("predictions",), "give --retired"),
        (("predictions", "--retired", "--dataset", "dogs"), "there is no dataset dogs"),
        (("bundles", "--models", "/nowhere"), "there is no directory /nowhere/bundles"),
    ],
)
def test_prune_with_a_wrong_option_is_refused(db: Database, arguments: tuple[str, ...], said: str) -> None:
    assert said in sentence(db, *arguments)


@pytest.mark.usefixtures("toys")
def test_prune_of_a_dataset_keeps_the_test_set_of_the_serving_model(db: Database, owner: sa.Engine) -> None:
    before = everything(owner, "source = 'test set of toy'")
    said = prune(db, "inputs", "--dataset", "toys", "--test-sets", "--yes")
    assert "kept: 30 inputs: the test set of model 1, which serves" in said
    assert everything(owner) == before
    assert pypredict(db, "check").returncode == 0


def test_prune_of_test_sets_takes_those_of_retired_models_only_if_asked(
    db: Database, engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    for seed, name in enumerate(("one", "two")):
        publish_bundle(tmp_path, name, seed=seed, n=1500)  # two chunks
        worker_for(engine, tmp_path).run(until_empty=True)
    said = prune(db, "inputs", "--dataset", "toys", "--yes")
    assert "kept: 1,500 inputs: the test set of model 1; --test-sets deletes it, too" in said
    assert count(owner, "chunk") == 4
    prune(db, "inputs", "--source", "test set of one", "--test-sets", "--yes")
    assert rows(owner, "SELECT DISTINCT source FROM ml.chunk") == [("test set of two",)]
    with engine.begin() as connection:
        assert jobs.plan_jobs(connection) == 0
    assert pypredict(db, "check").returncode == 0


def test_a_test_set_that_loses_a_chunk_measures_its_model_no_more(
    db: Database, engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    """Or else `pypredict check` would find another accuracy than the manifest's after a killed prune."""
    for seed, name in enumerate(("one", "two")):
        publish_bundle(tmp_path, name, seed=seed, n=1500)
        worker_for(engine, tmp_path).run(until_empty=True)
    with owner.begin() as connection:
        selection = deletion.select_inputs(connection, source="test set of one", test_sets=True)
        deletion.delete_unit(connection, selection, selection.read(connection)[0])
    assert pypredict(db, "check").returncode == 0
    assert count(owner, "chunk", "source = 'test set of one'") == 1


def test_a_wrong_load_is_undone_and_its_labels_are_replaced(
    db: Database, engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    publish_texts(models)
    worker_for(engine, models).run(until_empty=True)
    before = everything(owner)
    wrong, right = tmp_path / "wrong.csv", tmp_path / "right.csv"
    texts = ("good film", "bad film", "good good film")
    wrong.write_text("text,label\n" + "".join(f"{text},cat\n" for text in texts))
    right.write_text("text,label\n" + "".join(f"{text},bee\n" for text in texts))
    how = ("--dataset", "reviews", "--label-column", "label", "--models", str(models))

    def load(path: Path) -> str:
        done = pypredict(db, "load", str(path), *how, login="pypredict")
        assert done.returncode == 0, done.stderr
        worker_for(engine, models).run(until_empty=True)
        return done.stderr

    load(wrong)
    labels = "SELECT label, count(*) FROM ml.outcome WHERE NOT in_test_set GROUP BY label"
    assert rows(owner, labels) == [("cat", 3)]
    prune(db, "inputs", "--source", str(wrong), "--yes")
    assert everything(owner) == before
    assert "3 inputs loaded" in load(right)
    assert rows(owner, labels) == [("bee", 3)]
    prune(db, "inputs", "--source", str(right), "--yes")
    assert "3 inputs loaded" in load(wrong)
    assert rows(owner, labels) == [("cat", 3)]
    assert rows(owner, "SELECT * FROM ml.integrity") == []


def test_content_of_two_sources_belongs_to_the_first(
    db: Database, engine: sa.Engine, owner: sa.Engine, toys: Bundle, tmp_path: Path
) -> None:
    again = chunks_of(toys, "the same again", seed=2) + chunks_of(toys, "the same again", seed=3, chunks=1)
    add(engine, again)
    worker_for(engine, tmp_path).run(until_empty=True)
    before = everything(owner, "source <> 'the same again'")
    assert "20 inputs in 1 chunks" in prune(db, "inputs", "--source", "the same again", "--yes")
    assert everything(owner) == before
    prune(db, "inputs", "--source", "wrong", "--yes")
    add(engine, again)
    assert count(owner, "chunk", "source = 'the same again'") == 4
    assert rows(owner, "SELECT * FROM ml.integrity") == []


def test_a_chunk_that_a_worker_predicts_is_left_to_it(
    db: Database, engine: sa.Engine, owner: sa.Engine, toys: Bundle, tmp_path: Path
) -> None:
    def predict(arrays: np.ndarray) -> np.ndarray:
        if len(arrays) == PER_CHUNK:
            said.append(prune(db, "inputs", "--source", "new", "--yes"))
        return fake_predict(arrays)

    said: list[str] = []
    add(engine, chunks_of(toys, "new", chunks=1, seed=5))
    worker_for(engine, tmp_path, predict).run(until_empty=True)
    assert "kept: 20 inputs: a worker predicts them now; run the command again later" in said[0]
    assert rows(owner, "SELECT predicted IS NOT NULL, count(*) FROM ml.outcome WHERE source = 'new' GROUP BY 1") == [
        (True, 20)
    ]
    assert "20 inputs in 1 chunks with 20 predictions and errors are deleted" in prune(
        db, "inputs", "--source", "new", "--yes"
    )


def test_a_chunk_that_is_claimed_after_the_listing_is_left_and_named(
    engine: sa.Engine, owner: sa.Engine, toys: Bundle
) -> None:
    add(engine, chunks_of(toys, "new", chunks=1, seed=5))
    with owner.begin() as connection:
        selection = deletion.select_inputs(connection, source="new")
        (unit,) = selection.read(connection)
    with engine.begin() as connection:
        jobs.plan_jobs(connection)
        assert jobs.claim_job(connection, [1], "tester", 60) is not None
    with owner.begin() as connection:
        found = deletion.delete_unit(connection, selection, unit)
    assert found is not None
    assert found.kept == "a worker predicts them now; run the command again later"
    assert count(owner, "chunk", "source = 'new'") == 1


def waits_for_a_lock(engine: sa.Engine) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return scalar(engine, waiting) == 1


def test_77_a_prune_killed_in_the_middle_leaves_whole_units_and_goes_on(
    db: Database, owner: sa.Engine, toys: Bundle
) -> None:
    """It is killed within the transaction of the second chunk: all but its last statement are done."""
    before = everything(owner, "source <> 'wrong'")
    wrong = "SELECT chunk_id FROM ml.chunk WHERE source = 'wrong' ORDER BY chunk_id"
    chunk_ids = rows(owner, wrong)
    second = f"chunk_id = {chunk_ids[1][0]}"
    kept = everything(owner, second)
    with owner.connect() as holder, holder.begin() as transaction:
        holder.execute(sa.text(f"SELECT FROM ml.chunk WHERE {second} FOR UPDATE"))
        process = subprocess.Popen(
            [*START, "prune", "inputs", "--source", "wrong", "--yes"],
            env=os.environ | {"DATABASE_URL": db.url()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: waits_for_a_lock(owner))
        finally:
            process.kill()
            assert process.wait(timeout=30) == -signal.SIGKILL
        transaction.rollback()
    until(lambda: scalar(owner, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DELETE FROM ml.chunk%'") == 0)
    assert rows(owner, wrong) == chunk_ids[1:]
    assert everything(owner, second) == kept
    assert rows(owner, "SELECT * FROM ml.integrity") == []
    assert "40 inputs in 2 chunks" in prune(db, "inputs", "--source", "wrong", "--yes")
    assert everything(owner) == before


def test_78_a_worker_beside_a_prune_goes_on(
    db: Database, engine: sa.Engine, owner: sa.Engine, toys: Bundle, tmp_path: Path
) -> None:
    """Inputs are loaded, predicted and pruned at the same time, until the last prune finds no chunk in work."""
    add(engine, chunks_of(toys, "old", chunks=100, seed=7))
    with daemon(engine, tmp_path, lease_seconds=5):
        until(lambda: count(owner, "job", "state = 'done'") > 10)
        pruning = subprocess.Popen(
            [*START, "prune", "inputs", "--source", "old", "--yes"],
            env=os.environ | {"DATABASE_URL": db.url()},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        add(engine, chunks_of(toys, "new", chunks=50, seed=8))
        said, _ = pruning.communicate(timeout=60)
        assert pruning.returncode == 0, said
        until(lambda: count(owner, "job", "state = 'done'") == count(owner, "chunk"))
        if count(owner, "chunk", "source = 'old'"):
            prune(db, "inputs", "--source", "old", "--yes")
    assert rows(owner, "SELECT source, count(*) FROM ml.outcome WHERE source IN ('old', 'new') GROUP BY 1") == [
        ("new", 50 * PER_CHUNK)
    ]
    assert rows(owner, "SELECT * FROM ml.integrity") == []


@pytest.mark.parametrize("statement", deletion.DELETE_OUTCOMES[:3], ids=["prediction", "prediction_error", "suspect"])
def test_a_deletion_reads_only_the_range_of_its_inputs(owner: sa.Engine, statement: sa.TextClause) -> None:
    """Or else each chunk would cost a scan of all predictions, since the statistics of a new table are missing."""
    with owner.begin() as connection:
        connection.execute(deletion.FIX_PLAN)
        plan = connection.execute(sa.text(f"EXPLAIN {statement}"), {"chunk_id": 1, "model_id": None}).scalars()
        assert re.search(r"Index Cond: .*model_id = ANY.*input_id >=.*input_id <=", "\n".join(plan))


def delete_first(owner: sa.Engine, source: str) -> Callable[[sa.Connection], Unit | None]:
    """Make the function that deletes the first chunk of a source."""
    with owner.begin() as connection:
        selection = deletion.select_inputs(connection, source=source)
        unit = selection.read(connection)[0]
    return lambda connection: deletion.delete_unit(connection, selection, unit)


def test_78_a_plan_beside_a_prune_names_no_deleted_chunk(engine: sa.Engine, owner: sa.Engine, toys: Bundle) -> None:
    """Or else the foreign key of the job would end the worker."""
    add(engine, chunks_of(toys, "new", chunks=2, seed=5))
    assert overlap(owner, delete_first(owner, "new"), jobs.plan_jobs) == 1


def test_78_a_load_beside_a_prune_stores_the_same_content_again(
    engine: sa.Engine, owner: sa.Engine, toys: Bundle
) -> None:
    (chunk,) = chunks_of(toys, "new", chunks=1, seed=5)
    add(engine, [chunk])
    stored = overlap(owner, delete_first(owner, "new"), lambda connection: store.load_chunk(connection, chunk))
    assert stored[1], "the chunk is not new"
    assert count(owner, "chunk", "source = 'new'") == 1


def test_78_a_test_set_beside_a_prune_stays_whole(engine: sa.Engine, owner: sa.Engine, toys: Bundle) -> None:
    """The chunk became a test set while the prune waited, so it is kept."""
    (chunk,) = chunks_of(toys, "new", chunks=1, seed=5)
    add(engine, [chunk])
    delete = delete_first(owner, "new")

    def promote(connection: sa.Connection) -> None:
        chunk_id, new = store.load_chunk(connection, chunk)
        assert not new
        registry.add_test_set(connection, 1, [chunk_id])

    kept = overlap(owner, promote, delete)
    assert kept.kept == "the test set of model 1, which serves"


def test_two_prunes_at_once_both_end(db: Database, engine: sa.Engine, owner: sa.Engine, toys: Bundle) -> None:
    add(engine, chunks_of(toys, "many", chunks=40, seed=7))
    both = [
        subprocess.Popen(
            [*START, "prune", "inputs", "--dataset", "toys", "--yes"],
            env=os.environ | {"DATABASE_URL": db.url()},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert rows(owner, "SELECT DISTINCT source FROM ml.chunk") == [("test set of toy",)]
    assert rows(owner, "SELECT * FROM ml.integrity") == []


def predict_with_two_models(engine: sa.Engine, models: Path) -> None:
    """Model 1 predicts the sources old and both, then it is retired; model 2 predicts both and new."""
    bundle = publish_bundle(models, "one")
    worker_for(engine, models).run(until_empty=True)
    both = chunks_of(bundle, "both", seed=2, labels=True)
    add(engine, chunks_of(bundle, "old", seed=1) + both)
    worker_for(engine, models).run(until_empty=True)
    publish_bundle(models, "two", seed=9)
    worker_for(engine, models).run(until_empty=True)
    add(engine, chunks_of(bundle, "new", seed=3))
    for chunk in both:
        with engine.begin() as connection:
            jobs.plan_urgent(connection, store.load_chunk(connection, chunk)[0])
    worker_for(engine, models).run(until_empty=True)


PER_MODEL = """
    SELECT model_id, source, count(*) FROM ml.outcome WHERE NOT in_test_set GROUP BY model_id, source ORDER BY 1, 2"""


def test_prune_of_retired_predictions_leaves_inputs_and_other_models(
    db: Database, engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    predict_with_two_models(engine, tmp_path)
    assert rows(owner, PER_MODEL) == [(1, "both", 60), (1, "old", 60), (2, "both", 60), (2, "new", 60)]
    inputs = {table: everything(owner)[table] for table in ("chunk", "test_set", "input", "input_name")}
    said = prune(db, "predictions", "--retired", "--dataset", "toys", "--yes")
    assert "no other model has predicted 60 of these inputs; the model that serves will predict them" in said
    assert "kept: 30 inputs: the test set of model 1, which measures it" in said
    assert "120 predictions and errors are deleted" in said
    assert rows(owner, PER_MODEL) == [(2, "both", 60), (2, "new", 60)]
    assert {table: everything(owner)[table] for table in inputs} == inputs
    assert rows(owner, "SELECT * FROM ml.integrity") == []


def test_prune_says_how_many_inputs_the_serving_model_will_predict(
    db: Database, engine: sa.Engine, tmp_path: Path
) -> None:
    """Chunks of `both` have predictions of two models that are retired; neither counts for the other."""
    predict_with_two_models(engine, tmp_path)
    publish_bundle(tmp_path, "three", seed=10)
    worker_for(engine, tmp_path).run(until_empty=True)
    said = prune(db, "predictions", "--retired", "--yes")
    with engine.begin() as connection:
        jobs.plan_jobs(connection)
        planned = jobs.count_waiting(connection)
    assert planned == 180
    assert f"no other model has predicted {planned} of these inputs" in said


def test_deleted_predictions_of_a_retired_model_are_not_planned_again(
    db: Database, engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    predict_with_two_models(engine, tmp_path)
    prune(db, "predictions", "--retired", "--yes")
    with engine.begin() as connection:
        assert jobs.plan_jobs(connection) == 3  # of the source old, which no model has predicted now
    worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(owner, PER_MODEL) == [(2, "both", 60), (2, "new", 60), (2, "old", 60)]
    assert "0 predictions and errors are deleted" in prune(db, "predictions", "--retired", "--yes")
    assert pypredict(db, "check").returncode == 0


def test_predictions_of_a_model_that_serves_again_are_kept(engine: sa.Engine, owner: sa.Engine, tmp_path: Path) -> None:
    predict_with_two_models(engine, tmp_path)
    with owner.begin() as connection:
        selection = deletion.select_retired(connection)
        unit = selection.read(connection)[-1]
    with engine.begin() as connection:
        promotion.roll_back(connection, registry.find_model(connection, "1"))
    with owner.begin() as connection:
        assert deletion.delete_unit(connection, selection, unit) is None


FREED = re.compile(r"([\d,]+) bytes went back to the disk, about ([\d,]+) bytes can be used again by new rows")
MIB = 2**20


def freed(said: str) -> tuple[float, float]:
    """Read how many MiB went back to the disk, and how many are reusable."""
    found = FREED.search(said)
    assert found is not None, said
    returned, reusable = (int(number.replace(",", "")) / MIB for number in found.groups())
    return returned, reusable


def files(owner: sa.Engine) -> float:
    """Measure the files of the inputs, in MiB."""
    return int(str(scalar(owner, "SELECT pg_total_relation_size('ml.input')"))) / MIB


def test_prune_says_how_many_bytes_are_reusable_and_returned(
    db: Database, engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    """Three sources of 6 MiB each: the space within the file is used again, the space at its end goes back."""
    bundle = publish_bundle(tmp_path, shape=(28, 28, 1))
    identity = Preparation(bundle.manifest).identity

    def load(source: str, seed: int) -> None:
        x, _ = arrays_and_labels(8000, seed=seed, shape=(28, 28, 1))
        add(engine, list(cut(x, None, classes=None, **identity, source=source)))

    for seed, source in enumerate(("first", "middle", "last")):
        load(source, seed)
    before = files(owner)
    assert before > 18

    returned, reusable = freed(prune(db, "inputs", "--source", "middle", "--yes"))
    assert returned < 1
    assert 6 < reusable < 8
    load("middle again", 3)
    assert files(owner) - before < 1

    returned, reusable = freed(prune(db, "inputs", "--source", "last", "--yes"))
    assert returned > 5
    assert before - files(owner) > 5

    returned, reusable = freed(prune(db, "inputs", "--source", "first", "--yes", "--full"))
    assert returned > 5
    assert reusable == 0
    assert files(owner) < 10


@pytest.mark.usefixtures("toys")
def test_prune_warns_of_a_transaction_that_still_sees_the_deleted_rows(db: Database, owner: sa.Engine) -> None:
    with owner.connect() as reader, reader.begin():
        reader.execute(sa.text("DECLARE open CURSOR FOR SELECT input_id FROM ml.input"))
        said = prune(db, "inputs", "--source", "wrong", "--yes")
    assert "1 transactions began before the end of the deletion and may still see the deleted rows" in said


@pytest.mark.usefixtures("toys")
def test_prune_ends_with_a_sentence_when_a_table_is_locked(db: Database, owner: sa.Engine) -> None:
    with owner.connect() as other, other.begin():
        other.execute(sa.text("LOCK TABLE ml.input IN ROW EXCLUSIVE MODE"))
        done = pypredict(db, "prune", "inputs", "--source", "wrong", "--yes", start=SHORT_LOCK)
    assert done.returncode == 1
    assert "another transaction locks what this command needs" in done.stderr
    assert count(owner, "chunk", "source = 'wrong'") == 3


@pytest.mark.usefixtures("toys")
def test_a_lock_before_vacuum_does_not_hide_the_deletion(db: Database, owner: sa.Engine) -> None:
    with owner.connect() as other, other.begin():
        other.execute(sa.text("SELECT count(*) FROM ml.alembic_version, ml.input_name"))  # a lock of a reader
        said = prune(db, "inputs", "--source", "wrong", "--yes", "--full", start=SHORT_LOCK)
    assert "60 inputs in 3 chunks with 60 predictions and errors are deleted" in said
    assert "the space is not free yet; run as the owner: VACUUM (FULL, ANALYZE) ml.chunk" in said
