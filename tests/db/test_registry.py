"""Which model serves, what is exported, and how the queue stands."""

import csv
import os
import socket
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from bundles import fake_predict, publish_bundle

from pypredict import PypredictError, registry, store
from pypredict.chunk import cut
from pypredict.export import export
from pypredict.health import check_health
from pypredict.predictor import Models
from pypredict.status import read_status, serve_metrics
from pypredict.worker import Worker


def run(engine: sa.Engine, models: Path) -> int:
    return Worker(engine, models, Models(models, lambda _: fake_predict), "tester").run(until_empty=True)


def states(engine: sa.Engine) -> dict[str, str]:
    with engine.begin() as connection:
        return {model.name: model.state for model in registry.list_models(connection)}


@pytest.fixture
def three(engine: sa.Engine, tmp_path: Path) -> sa.Engine:
    """Models 1, 2 and 3 of one data set; the third serves."""
    for seed, name in enumerate(("one", "two", "three"), start=1):
        publish_bundle(tmp_path, name, seed=seed)
        run(engine, tmp_path)
    return engine


def test_the_newest_model_serves(three: sa.Engine) -> None:
    assert states(three) == {"one": "retired", "two": "retired", "three": "serving"}


def test_promote_lets_an_older_model_serve(three: sa.Engine) -> None:
    with three.begin() as connection:
        assert registry.promote(connection, 1) == "toys"
    assert states(three) == {"one": "serving", "two": "retired", "three": "retired"}


def test_rollback_goes_one_model_back_each_time(three: sa.Engine) -> None:
    with three.begin() as connection:
        assert registry.roll_back(connection, "toys") == 2
        assert registry.roll_back(connection, "toys") == 1
        with pytest.raises(registry.RegistryError, match="no model before"):
            registry.roll_back(connection, "toys")


def test_a_trainer_that_did_not_publish_anew_does_not_undo_a_rollback(three: sa.Engine, tmp_path: Path) -> None:
    with three.begin() as connection:
        registry.roll_back(connection, "toys")
    run(three, tmp_path)  # the pointer still names model 3
    assert states(three)["two"] == "serving"


def test_a_retired_data_set_has_no_serving_model(three: sa.Engine) -> None:
    with three.begin() as connection:
        registry.retire(connection, 3)
    assert set(states(three).values()) == {"retired"}


@pytest.mark.parametrize("verb", [registry.promote, registry.retire])
def test_an_unknown_model_is_named(three: sa.Engine, verb) -> None:
    with three.begin() as connection, pytest.raises(registry.RegistryError, match="there is no model 99"):
        verb(connection, 99)


def test_old_predictions_stay_and_older_inputs_are_predicted_anew_only_on_request(
    three: sa.Engine, tmp_path: Path
) -> None:
    counts = sa.text("SELECT model_id, count(*) FROM ml.prediction GROUP BY model_id ORDER BY model_id")
    with three.begin() as connection:
        assert connection.execute(counts).all() == [(1, 30), (2, 30), (3, 30)]
        assert store.rescore(connection, "toys") == 2
    assert run(three, tmp_path) == 60
    with three.begin() as connection:
        assert connection.execute(counts).all() == [(1, 30), (2, 30), (3, 90)]


def test_exported_csv_and_parquet_hold_the_same_rows(three: sa.Engine, tmp_path: Path) -> None:
    with three.begin() as connection:
        export(connection, tmp_path / "out.csv", None)
        export(connection, tmp_path / "out.parquet", "toys")
    with (tmp_path / "out.csv").open(newline="") as file:
        from_csv = [(int(row["input_id"]), row["label"], row["predicted"]) for row in csv.DictReader(file)]
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert from_csv == [(row["input_id"], row["label"], row["predicted"]) for row in table]
    assert len(table) == 90


def test_export_filters_by_data_set(three: sa.Engine, tmp_path: Path) -> None:
    with three.begin() as connection:
        export(connection, tmp_path / "out.csv", "another")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1


def test_export_to_another_ending_or_place_is_refused_and_leaves_nothing(three: sa.Engine, tmp_path: Path) -> None:
    with three.begin() as connection:
        with pytest.raises(PypredictError, match=r"\.csv or \.parquet"):
            export(connection, tmp_path / "out.xlsx", None)
        with pytest.raises(PypredictError, match="cannot be written"):
            export(connection, tmp_path / "nowhere/out.csv", None)
        with pytest.raises(PypredictError, match="cannot be written"):
            export(connection, tmp_path / f"{'x' * 300}.csv", None)
    assert not list(tmp_path.glob("out*"))


def test_export_over_a_directory_is_refused(three: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with three.begin() as connection, pytest.raises(PypredictError, match="is a directory"):
        export(connection, tmp_path / "out.csv", None)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_export_to_a_full_disk_is_refused_and_leaves_what_was_there(
    three: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text("the last one")

    def mkstemp(**_: object) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / "aside")

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    with three.begin() as connection, pytest.raises(PypredictError, match="No space left on device"):
        export(connection, tmp_path / name, None)
    assert (tmp_path / name).read_text() == "the last one"


def test_status_counts_what_waits_and_what_was_done(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    run(engine, tmp_path)
    identity = {"dataset": "toys", "prep_sha256": bundle.manifest.prep_sha256}
    with engine.begin() as connection:
        for chunk in cut(np.zeros((7, 4, 4, 1), np.uint8), None, classes=None, source="x", **identity):
            store.load_chunk(connection, chunk)
        store.plan_batches(connection)
    with engine.begin() as connection:
        now = read_status(connection)
    assert (now.open_batches, now.running_batches, now.open_inputs) == (1, 0, 7)
    assert now.inputs_per_second == pytest.approx(30 / 60)
    assert now.lag_seconds >= 0


def test_prometheus_reads_the_same_figures(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    run(engine, tmp_path)
    port = serve_metrics(0, "127.0.0.1", engine, lambda: 30)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert "pypredict_open_batches 0.0" in text
    assert "pypredict_predicted_inputs_total 30.0" in text
    assert "# HELP pypredict_lag_seconds Age of the oldest input that waits" in text


def test_a_port_in_use_is_refused_for_the_metrics(engine: sa.Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PypredictError, match=f"port {port} of 127.0.0.1 .*in use"):
            serve_metrics(port, "127.0.0.1", engine, lambda: 0)


def test_health_is_the_age_of_the_file(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with pytest.raises(PypredictError, match="has not started"):
        check_health(beat)
    beat.touch()
    check_health(beat)
    os.utime(beat, (0, 0))
    with pytest.raises(PypredictError, match="last turned"):
        check_health(beat)


def test_a_worker_touches_its_health_file(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    models = Models(tmp_path, lambda _: fake_predict)
    Worker(engine, tmp_path, models, "tester", health_file=tmp_path / "beat").run(until_empty=True)
    check_health(tmp_path / "beat")
