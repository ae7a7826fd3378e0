"""The worker on a real server, with a Python function as the model: normal runs, faulty chunks, outages.

Longer than 300 lines, because it has one test for each case of the worker.
"""

import select
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import psycopg2
import pytest
import sqlalchemy as sa
from conftest import Cluster, Database
from support.bundles import CLASSES, fake_predict, publish_bundle
from support.workers import daemon, load, rows, scalar, until, worker_for

from bundle.messages import printable
from bundle.verify import Bundle
from pypredict import PypredictError, jobs, listen, promotion, registry, store
from pypredict.chunk import cut
from pypredict.listen import Stop
from pypredict.models import Models, Predict
from pypredict.registry import WantedModel
from pypredict.source import cut_test_set
from pypredict.worker import Worker

BY_HAND = """
    INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, source)
    SELECT dataset, prep_sha256, 0, 1, 'uint8', :shape, 'by hand' FROM ml.model"""
ITS_INPUT = """
    INSERT INTO ml.input (chunk_id, sample_no, payload) SELECT c.chunk_id, 0, i.payload
    FROM ml.chunk c, (SELECT payload FROM ml.input LIMIT 1) i WHERE c.source = 'by hand'"""


DONE = "SELECT count(*) FROM ml.job WHERE state = 'done'"
RUNNING = "SELECT count(*) FROM ml.job WHERE state = 'running'"


def test_a_published_bundle_is_registered_loaded_and_predicted(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=2500)
    assert worker_for(engine, tmp_path).run(until_empty=True) == 2500
    assert rows(engine, "SELECT agrees, n FROM ml.accuracy") == [(True, 2500)]
    assert scalar(engine, "SELECT count(*) FROM ml.integrity") == 0
    assert scalar(engine, "SELECT count(*) FROM ml.job") == 3


def test_a_second_run_writes_no_row_and_loads_no_model(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    tables = (
        "SELECT (SELECT count(*) FROM ml.prediction), (SELECT count(*) FROM ml.job), (SELECT count(*) FROM ml.input)"
    )
    before = rows(engine, tables)

    def never(bundle: Bundle) -> Predict:
        raise AssertionError("a model was loaded")

    assert Worker(engine, tmp_path, Models(tmp_path, never), "second").run(until_empty=True) == 0
    assert rows(engine, tables) == before


def test_inputs_loaded_without_the_worker_are_predicted(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.full((1, 4, 4, 1), 5, np.uint8))
    assert worker_for(engine, tmp_path).run(until_empty=True) == 1
    assert scalar(engine, "SELECT predicted FROM ml.outcome WHERE NOT in_test_set") == CLASSES[5 % 3]


def test_46_inputs_of_a_too_large_chunk_become_too_large(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    monkeypatch.setattr(store, "MAX_CHUNK_BYTES", 500)  # one payload has 144 bytes
    load(engine, bundle, np.full((4, 4, 4, 1), 5, np.uint8))
    load(engine, bundle, np.full((3, 4, 4, 1), 5, np.uint8))
    assert worker_for(engine, tmp_path).run(until_empty=True) == 3
    assert rows(engine, "SELECT reason, count(*) FROM ml.prediction_error GROUP BY reason") == [("too_large", 4)]
    assert "has 576 bytes, over the limit of 500" in str(scalar(engine, "SELECT max(detail) FROM ml.prediction_error"))
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_a_chunk_without_inputs_does_not_stop_the_daemon(
    engine: sa.Engine, tmp_path: Path, no_backoff: None, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        connection.execute(sa.text(BY_HAND), {"shape": "{4,4,1}"})
    with pytest.raises(PypredictError, match=r"declares 1 inputs and holds 0.* in one transaction"):
        worker_for(engine, tmp_path).run(until_empty=True)
    with daemon(engine, tmp_path):
        load(engine, bundle, np.full((1, 4, 4, 1), 5, np.uint8))
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 1)
        with engine.begin() as connection:
            connection.execute(sa.text(ITS_INPUT))  # the missing input arrives late
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 2)
    assert "declares 1 inputs and holds 0" in caplog.text
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_a_hundred_faulty_chunks_do_not_stop_the_daemon(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        for _ in range(100):
            connection.execute(sa.text(BY_HAND), {"shape": "{4,4,1}"})
    load(engine, bundle, np.full((1, 4, 4, 1), 5, np.uint8))
    with daemon(engine, tmp_path, poll_seconds=120):
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 1)


def test_an_error_while_reading_does_not_stop_the_daemon(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_backoff: None
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    for n in (1, 2):
        load(engine, bundle, np.full((n, 4, 4, 1), n, np.uint8))
    read = store.read_inputs

    def read_or_fail(connection: sa.Connection, job: jobs.Job) -> store.Inputs:
        if job.n_inputs == 1:
            raise MemoryError("no room for this one")
        return read(connection, job)

    monkeypatch.setattr(store, "read_inputs", read_or_fail)
    with pytest.raises(
        PypredictError, match=r"^2 inputs .* not complete: chunk \d+ cannot be read: no room for this one$"
    ):
        worker_for(engine, tmp_path).run(until_empty=True)
    with daemon(engine, tmp_path):
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 2)
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.job WHERE last_error = 'no room for this one'") == 1)


@pytest.mark.parametrize("text", ["nul \0", "half a letter \udc80", "\x1b]0;title\x07"])
def test_56_an_error_text_that_cannot_be_stored_does_not_stop_the_others(
    engine: sa.Engine, tmp_path: Path, no_backoff: None, text: str
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)

    def predict(arrays: np.ndarray) -> np.ndarray:
        if (arrays == 7).any():
            raise RuntimeError(text)
        return fake_predict(arrays)

    for number in (7, 5):
        load(engine, bundle, np.full((1, 4, 4, 1), number, np.uint8))
    assert worker_for(engine, tmp_path, predict).run(until_empty=True) == 1
    (row,) = rows(engine, "SELECT reason, detail FROM ml.prediction_error")
    assert row == ("model_error", f"RuntimeError: {printable(text)}")
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def refuse_predictions(owner: sa.Engine, first_input: int) -> None:
    """Add a rule of an owner's own, which the predictions of later inputs break."""
    with owner.begin() as connection:
        connection.execute(sa.text(f"ALTER TABLE ml.prediction ADD CONSTRAINT own CHECK (input_id < {first_input})"))


FULL_DISK = """
    CREATE FUNCTION own_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE disk_full USING MESSAGE = 'No space left on device'; END $$;
    CREATE TRIGGER own_disk BEFORE INSERT ON ml.prediction EXECUTE FUNCTION own_disk()"""


def change(owner: sa.Engine, statement: str) -> None:
    with owner.begin() as connection:
        connection.execute(sa.text(statement))


def test_80_a_run_ends_when_its_results_cannot_be_stored(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, no_backoff: None
) -> None:
    publish_bundle(tmp_path)
    change(owner, FULL_DISK)
    with pytest.raises(PypredictError, match=r"the database refused a statement: No space left.*; mend this and run"):
        worker_for(engine, tmp_path).run(until_empty=True)
    assert scalar(engine, "SELECT attempt < 10 FROM ml.job") is True


def test_80_a_daemon_waits_longer_and_longer_when_its_results_cannot_be_stored(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_bundle(tmp_path)
    change(owner, FULL_DISK)
    waits: list[int] = []

    def wait(failures: int, most: float = 0) -> float:
        waits.append(failures)
        return 0.01

    monkeypatch.setattr("pypredict.worker._backoff_seconds", wait)
    with daemon(engine, tmp_path):
        for number in (1, 2):
            until(lambda: len(waits) > 3)
            change(owner, "ALTER TABLE ml.prediction DISABLE TRIGGER own_disk")
            until(lambda number=number: scalar(engine, DONE) == number)  # type: ignore[misc]
            assert waits == list(range(1, len(waits) + 1))
            waits.clear()
            change(owner, "ALTER TABLE ml.prediction ENABLE TRIGGER own_disk")
            load(engine, bundle, np.full((1, 4, 4, 1), number, np.uint8))
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_62_predictions_that_break_a_rule_do_not_stop_the_others(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, no_backoff: None
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    refuse_predictions(owner, first_input=32)  # the second of the next two
    for number in (1, 2):
        load(engine, bundle, np.full((1, 4, 4, 1), number, np.uint8))
    with pytest.raises(
        PypredictError, match=r'^1 inputs .* not complete: chunk 3 cannot be stored: .*constraint "own"'
    ):
        worker_for(engine, tmp_path).run(until_empty=True)
    with daemon(engine, tmp_path):
        until(lambda: scalar(engine, "SELECT failures > 3 FROM ml.job WHERE chunk_id = 3") is True)  # also row by row
        with owner.begin() as connection:
            connection.execute(sa.text("ALTER TABLE ml.prediction DROP CONSTRAINT own"))
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.job WHERE state <> 'done'") == 0)
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_63_a_read_only_database_is_an_outage(
    engine: sa.Engine,
    owner: sa.Engine,
    db: Database,
    tmp_path: Path,
    no_backoff: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish_bundle(tmp_path, n=3000)

    def make_read_only(value: str) -> None:
        """Change the database for new sessions."""
        db.cluster.execute(f'ALTER DATABASE "{db.name}" SET default_transaction_read_only = {value}')

    def predict(arrays: np.ndarray) -> np.ndarray:
        if "read-only" not in caplog.text:
            make_read_only("on")
            db.cluster.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{db.name}' AND usename = 'pypredict'"
            )
        return fake_predict(arrays)

    with daemon(engine, tmp_path, predict, lease_seconds=1):
        until(lambda: "cannot execute" in caplog.text)
        make_read_only("off")  # the sessions of the worker began read-only, and are not ended
        until(lambda: scalar(owner, "SELECT count(*) FROM ml.job WHERE state = 'done'") == 3)
    assert rows(engine, "SELECT agrees, n FROM ml.accuracy") == [(True, 3000)]
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_63_a_session_that_began_read_only_is_not_used_again(engine: sa.Engine, db: Database) -> None:
    read_only = f'ALTER DATABASE "{db.name}" SET default_transaction_read_only'
    db.cluster.execute(f"{read_only} = on")
    engine.dispose()  # close the session that it began with
    with pytest.raises(sa.exc.OperationalError, match="read-only"), engine.begin() as connection:
        jobs.plan_jobs(connection)
    db.cluster.execute(f"{read_only} = off")
    with engine.begin() as connection:
        assert jobs.plan_jobs(connection) == 0


@pytest.mark.parametrize("shape", ["{16,1}", "{2000000000,2000000000,2000000000}"])
def test_32_a_chunk_of_another_shape_is_never_claimed(engine: sa.Engine, tmp_path: Path, shape: str) -> None:
    publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        connection.execute(sa.text(BY_HAND), {"shape": shape})
        connection.execute(sa.text(ITS_INPUT))
    assert worker_for(engine, tmp_path).run(until_empty=True) == 0
    ((problem, detail),) = rows(engine, "SELECT * FROM ml.integrity")
    assert problem == "chunk has another dtype or shape than its preparation"
    assert detail == f"chunk 2: uint8 {shape}, model 1 takes uint8 {{4,4,1}}"


def test_46_a_payload_far_over_its_declared_size_is_not_read(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    bundle = publish_bundle(tmp_path)
    load(engine, bundle, np.full((3, 4, 4, 1), 5, np.uint8))
    with owner.begin() as connection:
        grow = "UPDATE ml.input SET payload = payload || decode(repeat('00', 1000), 'hex') WHERE sample_no = 1"
        connection.execute(sa.text(grow + " AND chunk_id = (SELECT min(chunk_id) FROM ml.chunk)"))
    worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(engine, "SELECT reason, detail FROM ml.prediction_error") == [
        ("too_large", "the payload is over 576 bytes, 4 times the size that its chunk declares")
    ]
    assert scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 2


def test_31_a_job_keeps_its_model_when_a_new_one_is_published(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "old", n=2000, seed=1)
    published: list[Bundle] = []

    def predict(arrays: np.ndarray) -> np.ndarray:
        if not published:
            published.append(publish_bundle(tmp_path, "new", n=1000, seed=2))
        return fake_predict(arrays)

    worker_for(engine, tmp_path, predict, poll_seconds=0.001).run(until_empty=True)
    counts = (
        "SELECT m.name, m.state, count(*) FROM ml.prediction JOIN ml.model m USING (model_id) GROUP BY 1, 2 ORDER BY 1"
    )
    assert rows(engine, counts) == [("new", "serving", 1000), ("old", "retired", 2000)]
    assert scalar(engine, "SELECT count(*) FROM ml.integrity") == 0


def test_44_nan_and_infinity_become_not_finite(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, shape=(2,), dtype="float32")
    worker_for(engine, tmp_path).run(until_empty=True)
    floats = np.ones((3, 2), np.float32)
    floats[1, 0], floats[2, 1] = np.nan, np.inf
    with engine.begin() as connection:
        (chunk,) = cut(floats, None, classes=None, dataset="toys", prep_sha256=bundle.manifest.prep_sha256, source="x")
        store.load_chunk(connection, chunk)
    worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(engine, "SELECT reason, count(*) FROM ml.prediction_error GROUP BY reason") == [("not_finite", 2)]


@pytest.mark.parametrize(
    "output",
    [
        lambda n: np.full((n, 3), np.nan, np.float32),
        lambda n: np.zeros((n, 2), np.float32),
        lambda n: -np.ones((n, 3)),
        lambda n: np.full((n, 3), 2, np.float32),
    ],
    ids=["nan", "wrong width", "negative", "over 1"],
)
def test_34_an_invalid_output_becomes_bad_output(
    engine: sa.Engine, tmp_path: Path, output: Callable[[int], np.ndarray]
) -> None:
    publish_bundle(tmp_path)
    worker_for(engine, tmp_path, lambda arrays: output(len(arrays))).run(until_empty=True)
    assert rows(engine, "SELECT reason, count(*) FROM ml.prediction_error GROUP BY reason") == [("bad_output", 30)]
    assert scalar(engine, "SELECT count(*) FROM ml.integrity") == 0


def test_7_stop_finishes_this_job_and_releases_the_next(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=5000)
    stop = Stop()

    def predict(arrays: np.ndarray) -> np.ndarray:
        stop.set()
        return fake_predict(arrays)

    assert worker_for(engine, tmp_path, predict, stop=stop).run(until_empty=False) == 1000
    states = dict(rows(engine, "SELECT state, count(*) FROM ml.job GROUP BY state"))
    assert states == {"done": 1, "pending": 4}
    assert scalar(engine, "SELECT sum(failures) FROM ml.job") == 0
    assert scalar(engine, "SELECT count(*) FROM ml.integrity") == 0


def test_14_a_terminated_backend_loses_no_prediction(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, no_backoff: None
) -> None:
    publish_bundle(tmp_path, n=4000)
    killed: list[int] = []

    def predict(arrays: np.ndarray) -> np.ndarray:
        if len(killed) < 3:
            with owner.connect() as connection:
                killed.append(
                    connection.execute(
                        sa.text(
                            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                            " WHERE usename = 'pypredict' AND datname = current_database()"
                        )
                    ).scalar_one()
                )
        return fake_predict(arrays)

    worker_for(engine, tmp_path, predict, lease_seconds=1).run(until_empty=True)
    assert sum(killed) > 0
    assert rows(engine, "SELECT agrees, n FROM ml.accuracy") == [(True, 4000)]
    assert scalar(engine, "SELECT count(*) FROM ml.integrity") == 0


def test_14_a_daemon_works_again_after_many_outages(
    engine: sa.Engine,
    db: Database,
    cluster: Cluster,
    tmp_path: Path,
    no_backoff: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    with daemon(engine, tmp_path):
        cluster.execute(
            f'ALTER DATABASE "{db.name}" ALLOW_CONNECTIONS false',
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{db.name}'",
        )
        until(lambda: caplog.text.count("the database does not answer") > 7)
        cluster.execute(f'ALTER DATABASE "{db.name}" ALLOW_CONNECTIONS true')
        load(engine, bundle, np.full((1, 4, 4, 1), 5, np.uint8))
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 1)


def test_10_only_one_of_eight_workers_claims_a_job(engine: sa.Engine, tmp_path: Path, db: Database) -> None:
    bundle = publish_bundle(tmp_path)
    with engine.begin() as connection:
        promotion.promote(connection, registry.register_model(connection, bundle))
        for chunk in cut_test_set(bundle):
            store.load_chunk(connection, chunk)
        jobs.plan_jobs(connection)
    barrier, claimed = threading.Barrier(8), []

    def claim(number: int) -> None:
        mine = psycopg2.connect(db.url("pypredict"))
        own = sa.create_engine("postgresql+psycopg2://", creator=lambda: mine)
        with own.connect() as connection:
            barrier.wait()
            job = jobs.claim_job(connection, [1], f"worker {number}", 60)
            connection.commit()
        if job is not None:
            claimed.append(number)
        own.dispose()

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 1


def test_two_workers_share_jobs_and_repeat_none(engine: sa.Engine, db: Database, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=20_000)
    engines = [engine, db.engine("pypredict")]
    workers = [worker_for(one, tmp_path) for one in engines]
    threads = [threading.Thread(target=worker.run, kwargs={"until_empty": True}) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engines[1].dispose()
    assert sum(worker.predicted for worker in workers) == 20_000
    assert scalar(engine, "SELECT count(*) FROM ml.prediction") == 20_000
    assert scalar(engine, "SELECT count(*) FROM ml.integrity") == 0


def test_an_outage_at_the_end_of_a_run_is_tried_again(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_backoff: None
) -> None:
    publish_bundle(tmp_path)
    count_open = jobs.count_open
    lost: list[int] = []

    def lose_connection(connection: sa.Connection, models: Sequence[int], without: Collection[int]) -> int:
        if not lost:
            lost.append(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
            with owner.connect() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": lost[0]})
        return count_open(connection, models, without)

    monkeypatch.setattr(jobs, "count_open", lose_connection)
    assert worker_for(engine, tmp_path).run(until_empty=True) == 30
    assert lost


# The server that takes over is older, and gives the numbers again.
EMPTY = """
    TRUNCATE ml.prediction, ml.job, ml.test_set, ml.input, ml.chunk, ml.model RESTART IDENTITY CASCADE"""


def test_81_a_worker_imports_again_what_a_failover_lost(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_backoff: None
) -> None:
    publish_bundle(tmp_path, "first", seed=1)
    worker = worker_for(engine, tmp_path)
    plan, lost = jobs.plan_jobs, list[int]()

    def fail_over(connection: sa.Connection, after: int = 0) -> int:
        if worker.predicted == 30 and not lost:
            lost.append(1)
            connection.rollback()
            change(owner, EMPTY)
            publish_bundle(tmp_path, "another", seed=2)
            raise sa.exc.OperationalError("", None, psycopg2.OperationalError("the server closed the connection"))
        return plan(connection, after)

    monkeypatch.setattr(jobs, "plan_jobs", fail_over)
    worker.run(until_empty=True)
    assert lost
    assert rows(engine, "SELECT model_id, name FROM ml.model ORDER BY name") == [(1, "another"), (2, "first")]
    assert rows(engine, "SELECT * FROM ml.integrity") == []
    assert scalar(engine, "SELECT count(*) FROM ml.prediction") == 30
    assert {number: bundle.manifest.name for number, bundle in worker.models._bundles.items()} == {1: "another"}


def test_81_a_daemon_imports_again_after_a_failover_without_an_error(
    engine: sa.Engine, owner: sa.Engine, db: Database, tmp_path: Path
) -> None:
    publish_bundle(tmp_path)
    with daemon(engine, tmp_path):
        until(lambda: scalar(engine, DONE) == 1)
        change(owner, EMPTY)
        db.cluster.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{listen.DAEMON}'"
            f" AND datname = '{db.name}'"
        )
        until(lambda: scalar(engine, DONE) == 1)
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_81_a_model_that_got_the_number_of_another_is_loaded_anew(tmp_path: Path) -> None:
    models = Models(tmp_path, lambda _: fake_predict)
    for name in ("first", "another"):
        bundle = publish_bundle(tmp_path, name, seed=len(name))
        wanted = WantedModel(1, "toys", name, bundle.model_sha256, bundle.serving_sha256, serves=True)
        assert models.servable([wanted], lazily=False) == ([1], [])
        assert models._bundles[1].manifest.name == name


def is_notified(worker: Worker) -> bool:
    connection = worker._listener._connection
    assert connection is not None
    return bool(select.select([connection], [], [], 0)[0])


def test_an_urgent_chunk_comes_right_after_the_current_chunk(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    for number in range(10):
        load(engine, bundle, np.full((2, 4, 4, 1), number, np.uint8))
    stop, order = Stop(), []

    def predict(arrays: np.ndarray) -> np.ndarray:
        order.append(int(arrays[0, 0, 0, 0]))
        if len(order) == 2:  # the first job after a wait is done before the next one is read
            until(lambda: scalar(engine, RUNNING) == 2)  # the next job is read ahead
            for number in (99, 98):
                rush(engine, bundle, np.full((1, 4, 4, 1), number, np.uint8))
            until(lambda: is_notified(worker))
        if len(order) == 5:
            stop.set()
        return fake_predict(arrays)

    worker = worker_for(engine, tmp_path, predict, stop=stop, poll_seconds=120)
    worker.run(until_empty=False)
    assert order[:5] == [0, 1, 99, 98, 2]


def test_an_urgent_chunk_is_written_before_the_next_prediction(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    for number in range(5):
        load(engine, bundle, np.full((2, 4, 4, 1), number, np.uint8))
    stop, next_began = Stop(), threading.Event()
    events: list[int | str] = []

    def predict(arrays: np.ndarray) -> np.ndarray:
        urgent_began = 99 in events
        events.append(int(arrays[0, 0, 0, 0]))
        if urgent_began:
            next_began.set()
        if len(events) == 3:  # the first job after a wait, its commit, and this one
            until(lambda: scalar(engine, RUNNING) == 2)
            rush(engine, bundle, np.full((1, 4, 4, 1), 99, np.uint8))
            until(lambda: is_notified(worker))
        if len(events) > 8:
            stop.set()
        return fake_predict(arrays)

    worker = worker_for(engine, tmp_path, predict, stop=stop, poll_seconds=120)

    def note(n_inputs: int) -> None:
        if n_inputs == 1:
            next_began.wait(1)  # the next prediction has this second to begin too early
        events.append(f"{n_inputs} written")

    worker.on_written = note
    worker.run(until_empty=False)
    after = events[events.index(99) + 1 :]
    assert after.index("1 written") < after.index(2)


def test_the_first_job_after_a_wait_is_written_before_the_next_one_is_read(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    for number in range(3):
        load(engine, bundle, np.full((2, 4, 4, 1), number, np.uint8))
    events: list[str] = []
    worker = worker_for(engine, tmp_path)
    worker.on_written = lambda _: events.append("written")
    fetch = worker._fetch

    def record(until_empty: bool) -> object:
        events.append("fetch")
        return fetch(until_empty)

    monkeypatch.setattr(worker, "_fetch", record)
    worker.run(until_empty=True)
    assert events[:3] == ["fetch", "written", "fetch"]
    assert events.count("written") == 3


def rush(engine: sa.Engine, bundle: Bundle, arrays: np.ndarray) -> None:
    """Store a chunk as `pypredict predict` does."""
    manifest = bundle.manifest
    with engine.begin() as connection:
        (chunk,) = cut(
            arrays, None, classes=None, dataset="toys", prep_sha256=manifest.prep_sha256, source="command line"
        )
        chunk_id, _ = store.load_chunk(connection, chunk)
        jobs.plan_urgent(connection, chunk_id)
    listen.notify(engine, chunk_id)


def test_only_an_open_chunk_becomes_urgent(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    for number in range(3):
        load(engine, bundle, np.full((2, 4, 4, 1), number, np.uint8))
    with engine.begin() as connection:
        jobs.plan_jobs(connection)
    rush(engine, bundle, np.full((2, 4, 4, 1), 2, np.uint8))
    with engine.begin() as connection:
        job = jobs.claim_job(connection, [1], "tester", 60, urgent=True)
        assert job is not None
        assert jobs.claim_job(connection, [1], "tester", 60, urgent=True) is None
    assert scalar(engine, f"SELECT count(DISTINCT payload) = 1 FROM ml.input WHERE chunk_id = {job.chunk_id}") is True
    with engine.begin() as connection:
        jobs.release_job(connection, job, failed=False)
    worker_for(engine, tmp_path).run(until_empty=True)
    rush(engine, bundle, np.full((2, 4, 4, 1), 2, np.uint8))
    assert scalar(engine, "SELECT count(*) FROM ml.job WHERE state <> 'done'") == 0


def test_accuracy_separates_training_inputs_from_new_inputs(engine: sa.Engine, tmp_path: Path) -> None:
    learned = np.arange(6, dtype=np.uint8).repeat(16).reshape(6, 4, 4, 1)
    new = learned[:4] + 100
    bundle = publish_bundle(tmp_path, learned=learned)
    worker_for(engine, tmp_path).run(until_empty=True)
    right = fake_predict(np.concatenate([learned, new])).argmax(axis=1).astype(np.int32)
    right[6:8] = (right[6:8] + 1) % 3  # wrong labels for two of the new inputs
    with engine.begin() as connection:
        (chunk,) = cut(
            np.concatenate([learned, new]),
            right,
            classes=CLASSES,
            dataset="toys",
            prep_sha256=bundle.manifest.prep_sha256,
            source="mixed",
        )
        store.load_chunk(connection, chunk)
    load(engine, bundle, learned[:1])  # in_training is not computed for an input without a label
    worker_for(engine, tmp_path).run(until_empty=True)
    found = rows(engine, "SELECT in_test_set, in_training, n, accuracy FROM ml.accuracy")
    assert found[1:] == [(False, False, 4, 0.5), (False, True, 6, 1.0)]
    assert found[0][:3] == (True, False, 30)
    unlabelled = "SELECT DISTINCT in_training FROM ml.outcome WHERE label IS NULL"
    assert rows(engine, unlabelled) == [(None,)]
    assert rows(engine, "SELECT * FROM ml.integrity") == []


def test_each_name_is_shown_with_its_own_prediction(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    arrays = np.arange(5, dtype=np.uint8).repeat(16).reshape(5, 4, 4, 1)
    names = ("cat/ä ö.jpg", 'a "quoted" one', "back\\slash, comma", "new\nline", "🦎")
    with engine.begin() as connection:
        (chunk,) = cut(
            arrays,
            None,
            classes=None,
            dataset="toys",
            prep_sha256=bundle.manifest.prep_sha256,
            source="photographs",
            names=names,
        )
        store.load_chunk(connection, chunk)
    load(engine, bundle, arrays[:2])
    worker_for(engine, tmp_path).run(until_empty=True)
    found = rows(engine, "SELECT name, predicted FROM ml.outcome WHERE NOT in_test_set ORDER BY input_id")
    want = [CLASSES[number % 3] for number in range(5)]
    assert found == [*zip(names, want, strict=True), ("row 0", want[0]), ("row 1", want[1])]
    assert [name for (name,) in rows(engine, "SELECT name FROM ml.inputs WHERE source = 'photographs'")] == [*names]


def test_arrays_are_named_by_their_row_in_the_whole_file(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    load(engine, bundle, np.random.default_rng(0).integers(0, 256, (2500, 4, 4, 1), np.uint8))
    found = rows(engine, "SELECT name FROM ml.inputs WHERE source = 'a test' ORDER BY input_id")
    assert [name for (name,) in found] == [f"row {number}" for number in range(2500)]
