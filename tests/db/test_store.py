"""Store and read chunks, jobs and outcomes on a real server."""

import io
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import CLASSES, fake_predict, publish_bundle

from pypredict import jobs, promotion, registry, store
from pypredict.chunk import Chunk, cut
from pypredict.codec import encode
from pypredict.jobs import Job, LeaseLostError
from pypredict.source import cut_test_set
from pypredict.store import Inputs, StoreError

LEASE = 60


def scalar(engine: sa.Engine, statement: str) -> object:
    with engine.connect() as connection:
        return connection.execute(sa.text(statement)).scalar()


def toy_chunk(x: np.ndarray, labels: np.ndarray | None = None, classes: tuple[str, ...] | None = None) -> Chunk:
    (chunk,) = cut(x, labels, classes=classes, dataset="toys", prep_sha256="0" * 64, source="a test")
    return chunk


@pytest.fixture
def planned(engine: sa.Engine, tmp_path: Path) -> sa.Engine:
    """One model and its test set chunk of 30, planned, not claimed."""
    bundle = publish_bundle(tmp_path)
    with engine.begin() as connection:
        model = registry.register_model(connection, bundle)
        chunk_ids = [store.load_chunk(connection, chunk)[0] for chunk in cut_test_set(bundle)]
        registry.add_test_set(connection, model.model_id, chunk_ids)
    with engine.begin() as connection:
        assert jobs.plan_jobs(connection) == 1
    return engine


def claimed(chunk_id: int, n_inputs: int, dtype: str, shape: tuple[int, ...]) -> Job:
    """A job in the form that a claim returns."""
    return Job(
        model_id=1,
        chunk_id=chunk_id,
        attempt=1,
        failures=0,
        n_inputs=n_inputs,
        dtype=dtype,
        shape=shape,
        labelled=False,
    )


def claim(engine: sa.Engine, lease: float = LEASE, models: list[int] | None = None) -> Job | None:
    with engine.begin() as connection:
        return jobs.claim_job(connection, models or [1], "tester", lease)


def finish(engine: sa.Engine, job: Job) -> None:
    with engine.begin() as connection:
        inputs = store.read_inputs(connection, job)
        jobs.finish_job(connection, job, inputs, fake_predict(inputs.arrays))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
@pytest.mark.parametrize("shape", [(3,), (4, 4, 1), (2, 3, 2, 2)])
def test_50_loaded_arrays_are_read_back_bit_exact(engine: sa.Engine, dtype: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 200, (7, *shape)).astype(dtype)
    with engine.begin() as connection:
        chunk_id, new = store.load_chunk(connection, toy_chunk(x))
        inputs = store.read_inputs(connection, claimed(chunk_id, 7, dtype, shape))
    assert new
    assert inputs.errors == []
    assert inputs.arrays.dtype == np.dtype(dtype)
    assert inputs.arrays.tobytes() == x.tobytes()


def test_np_load_reads_every_payload(engine: sa.Engine) -> None:
    x = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    with engine.begin() as connection:
        store.load_chunk(connection, toy_chunk(x))
        payloads = connection.execute(sa.text("SELECT payload FROM ml.input ORDER BY sample_no")).scalars().all()
    assert all(np.array_equal(np.load(io.BytesIO(payload)), array) for payload, array in zip(payloads, x, strict=True))


def test_47_a_chunk_loaded_twice_is_stored_once(engine: sa.Engine) -> None:
    chunk = toy_chunk(np.arange(6, dtype=np.uint8).reshape(2, 3))
    for _ in range(2):
        with engine.begin() as connection:
            _, new = store.load_chunk(connection, chunk)
    assert not new
    assert scalar(engine, "SELECT count(*) FROM ml.input") == 2


def test_the_same_arrays_with_other_labels_are_another_chunk(engine: sa.Engine) -> None:
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for labels in ([0, 1], [1, 0]):
        with engine.begin() as connection:
            store.load_chunk(connection, toy_chunk(x, np.array(labels, np.int32), ("a", "b")))
    assert scalar(engine, "SELECT count(*) FROM ml.chunk") == 2


def test_48_a_loader_that_dies_in_a_chunk_stores_nothing(engine: sa.Engine) -> None:
    connection = engine.connect()
    transaction = connection.begin()
    store.load_chunk(connection, toy_chunk(np.zeros((2, 3), np.uint8)))
    connection.invalidate()  # closes the connection without COMMIT, like a process that dies
    connection.close()
    transaction.close()
    assert scalar(engine, "SELECT count(*) FROM ml.chunk") == 0
    assert scalar(engine, "SELECT count(*) FROM ml.input") == 0


@pytest.mark.parametrize(
    "name", ["O'Brien", "'); DROP TABLE ml.input; --", "🦎", "قطة", 'back\\slash "quoted"', "a,{b}"]
)
def test_49_labels_of_any_text_are_stored_unchanged(engine: sa.Engine, name: str) -> None:
    chunk = toy_chunk(np.zeros((1, 3), np.uint8), np.zeros(1, np.int32), (name, "other"))
    with engine.begin() as connection:
        store.load_chunk(connection, chunk)
    assert scalar(engine, "SELECT label FROM ml.inputs") == name


def test_49_a_label_with_a_nul_byte_is_refused(engine: sa.Engine) -> None:
    chunk = toy_chunk(np.zeros((1, 3), np.uint8), np.zeros(1, np.int32), ("a\0b", "other"))
    with engine.begin() as connection, pytest.raises(StoreError, match="cannot be stored"):
        store.load_chunk(connection, chunk)


def test_36_a_corrupt_payload_becomes_an_error_row(engine: sa.Engine, owner: sa.Engine) -> None:
    x = np.arange(9, dtype=np.uint8).reshape(3, 3)
    with engine.begin() as connection:
        chunk_id, _ = store.load_chunk(connection, toy_chunk(x))
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.input SET payload = payload || '\\x00' WHERE sample_no = 1"))
    with engine.begin() as connection:
        inputs = store.read_inputs(connection, claimed(chunk_id, 3, "uint8", (3,)))
    assert [error.reason for error in inputs.errors] == ["corrupt"]
    assert inputs.arrays.tolist() == [[0, 1, 2], [6, 7, 8]]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(encode(np.zeros(3, np.float32)), "wrong_dtype"), (encode(np.zeros((3, 1), np.uint8)), "wrong_shape")],
)
def test_32_a_payload_that_differs_from_its_chunk_is_an_error(
    engine: sa.Engine, owner: sa.Engine, payload: bytes, reason: str
) -> None:
    with engine.begin() as connection:
        chunk_id, _ = store.load_chunk(connection, toy_chunk(np.zeros((2, 3), np.uint8)))
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.input SET payload = :payload WHERE sample_no = 0"), {"payload": payload})
    with engine.begin() as connection:
        inputs = store.read_inputs(connection, claimed(chunk_id, 2, "uint8", (3,)))
    assert [error.reason for error in inputs.errors] == [reason]
    assert len(inputs.arrays) == 1


@pytest.mark.parametrize(("declared", "said"), [(2, "holds more"), (4, "holds 3")])
def test_a_chunk_with_a_wrong_number_of_inputs_is_named(engine: sa.Engine, declared: int, said: str) -> None:
    with engine.begin() as connection:
        chunk_id, _ = store.load_chunk(connection, toy_chunk(np.zeros((3, 3), np.uint8)))
    with engine.begin() as connection, pytest.raises(store.StoreError, match=f"declares {declared} inputs and {said}"):
        store.read_inputs(connection, claimed(chunk_id, declared, "uint8", (3,)))


def test_46_a_chunk_over_256_mib_is_not_read(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        chunk_id, _ = store.load_chunk(connection, toy_chunk(np.zeros((2, 3), np.uint8)))
        inputs = store.read_inputs(connection, claimed(chunk_id, 2, "uint8", (128 * 2**20,)))
    assert [error.reason for error in inputs.errors] == ["too_large", "too_large"]
    assert "over the limit of 268435456; store it as smaller chunks" in inputs.errors[0].detail


def test_claim_takes_a_job_once(planned: sa.Engine) -> None:
    assert claim(planned) is not None
    assert claim(planned) is None


def test_claim_skips_a_job_that_another_worker_claims(planned: sa.Engine) -> None:
    with planned.begin() as holder:
        assert jobs.claim_job(holder, [1], "first", LEASE) is not None
        assert claim(planned) is None  # would block without SKIP LOCKED


def test_claim_ignores_jobs_of_other_models(planned: sa.Engine) -> None:
    assert claim(planned, models=[2]) is None


def test_an_expired_lease_counts_as_a_failure(planned: sa.Engine) -> None:
    first = claim(planned, lease=0)
    second = claim(planned)
    assert first is not None
    assert second is not None
    assert (second.attempt, second.failures) == (first.attempt + 1, 1)


def test_6_a_worker_without_its_lease_is_fenced(planned: sa.Engine) -> None:
    late = claim(planned, lease=0)
    new = claim(planned)
    assert late is not None
    assert new is not None
    with pytest.raises(LeaseLostError):
        finish(planned, late)
    assert scalar(planned, "SELECT count(*) FROM ml.prediction") == 0
    finish(planned, new)
    with pytest.raises(LeaseLostError):
        finish(planned, new)
    assert scalar(planned, "SELECT count(*) FROM ml.prediction") == 30
    assert scalar(planned, "SELECT count(*) FROM ml.integrity") == 0


def test_4_a_job_is_done_again_after_a_death_before_the_copy(planned: sa.Engine) -> None:
    job = claim(planned, lease=0)
    assert job is not None
    connection = planned.connect()
    connection.begin()
    connection.execute(jobs.FINISH, {"model_id": 1, "chunk_id": job.chunk_id, "attempt": job.attempt} | jobs.PLATFORM)
    connection.invalidate()
    connection.close()
    again = claim(planned)
    assert again is not None
    finish(planned, again)
    assert scalar(planned, "SELECT count(*) FROM ml.integrity") == 0


def test_a_released_job_waits_and_keeps_its_error(planned: sa.Engine) -> None:
    job = claim(planned)
    assert job is not None
    with planned.begin() as connection:
        jobs.release_job(connection, job, failed=True, error="it broke", delay_seconds=3600)
    assert claim(planned) is None
    assert scalar(planned, "SELECT last_error FROM ml.job") == "it broke"
    assert scalar(planned, "SELECT failures FROM ml.job") == 1


def test_a_release_without_an_error_is_not_a_failure(planned: sa.Engine) -> None:
    job = claim(planned)
    assert job is not None
    with planned.begin() as connection:
        jobs.release_job(connection, job, failed=False)
    again = claim(planned)
    assert again is not None
    assert again.failures == 0


def test_a_wrong_number_of_outcomes_is_refused(planned: sa.Engine) -> None:
    job = claim(planned)
    assert job is not None
    with planned.begin() as connection, pytest.raises(StoreError, match="29 predictions and 0 errors for 30 inputs"):
        jobs.finish_job(connection, job, Inputs(np.arange(29), np.zeros(29), []), np.zeros((29, 3), np.float32))


def test_predictions_are_stored_with_their_own_inputs(planned: sa.Engine) -> None:
    job = claim(planned)
    assert job is not None
    finish(planned, job)
    with planned.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT payload, class_no, score, probs FROM ml.input JOIN ml.prediction USING (input_id)")
        ).all()
    for row in rows:
        want = fake_predict(np.load(io.BytesIO(row.payload))[None])[0]
        assert row.class_no == want.argmax()
        assert np.float32(row.score) == want.max()
        assert np.array_equal(np.array(row.probs, np.float32), want)


def test_an_error_row_is_an_outcome(planned: sa.Engine) -> None:
    job = claim(planned)
    assert job is not None
    with planned.begin() as connection:
        inputs = store.read_inputs(connection, job)
        inputs = inputs.keep(np.arange(30) > 0, "not_finite", "a NaN")
        jobs.finish_job(connection, job, inputs, fake_predict(inputs.arrays))
    assert scalar(planned, "SELECT count(*) FROM ml.integrity") == 0
    assert scalar(planned, "SELECT reason FROM ml.prediction_error") == "not_finite"


def test_a_model_is_registered_once_and_keeps_its_state(engine: sa.Engine, tmp_path: Path) -> None:
    first = publish_bundle(tmp_path, "first", seed=1)
    with engine.begin() as connection:
        promotion.promote(connection, registry.register_model(connection, first))
        promotion.promote(connection, registry.register_model(connection, publish_bundle(tmp_path, "second", seed=2)))
        again = registry.register_model(connection, first)
    assert (again.model_id, again.state) == (1, "retired")


def test_33_accuracy_compares_class_names_not_numbers(planned: sa.Engine, owner: sa.Engine) -> None:
    job = claim(planned)
    assert job is not None
    finish(planned, job)
    before = scalar(planned, "SELECT accuracy FROM ml.accuracy")
    with owner.begin() as connection:  # the same labels under other numbers
        connection.execute(
            sa.text("UPDATE ml.chunk SET classes = :classes"), {"classes": [CLASSES[i] for i in (2, 0, 1)]}
        )
        connection.execute(sa.text("UPDATE ml.input SET label_no = (label_no + 1) % 3"))
    assert scalar(planned, "SELECT accuracy FROM ml.accuracy") == before
    assert scalar(planned, "SELECT agrees FROM ml.accuracy") is True


@pytest.mark.parametrize("field", ["classes", "names", "source"])
def test_73_name_that_is_too_long_is_refused_in_a_sentence(engine: sa.Engine, field: str) -> None:
    x = np.zeros((1, 4), np.uint8)
    given: dict[str, object] = {"classes": ("cat",), "names": ("a",), "source": "b"}
    given[field] = "x" * 5000 if field == "source" else ("x" * 5000,)
    (chunk,) = cut(x, np.zeros(1, np.int32), dataset="toys", prep_sha256="0" * 64, **given)  # type: ignore[arg-type]
    with engine.begin() as connection, pytest.raises(store.StoreError, match=r"x\.\.\. has 5000 characters, at most"):
        store.load_chunk(connection, chunk)
