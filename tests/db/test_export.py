"""Exported files are complete or not written, and both formats hold the same rows."""

import csv
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from support.bundles import publish_bundle
from support.workers import worker_for

from pypredict import PypredictError, store
from pypredict.chunk import cut
from pypredict.export import export
from pypredict.source import Preparation


@pytest.fixture
def three(engine: sa.Engine, tmp_path: Path) -> sa.Engine:
    """Predictions of three models of one dataset."""
    for seed, name in enumerate(("one", "two", "three"), start=1):
        publish_bundle(tmp_path, name, seed=seed)
        worker_for(engine, tmp_path).run(until_empty=True)
    return engine


def test_exported_csv_and_parquet_hold_the_same_rows(three: sa.Engine, tmp_path: Path) -> None:
    with three.begin() as connection:
        export(connection, tmp_path / "out.csv", None)
        export(connection, tmp_path / "out.parquet", "toys")
    with (tmp_path / "out.csv").open(newline="") as file:
        from_csv = [(int(row["input_id"]), row["name"], row["label"], row["predicted"]) for row in csv.DictReader(file)]
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert from_csv == [(row["input_id"], row["name"], row["label"], row["predicted"]) for row in table]
    assert len(table) == 90
    assert table[5]["name"] == "row 5"


def test_export_holds_only_the_given_dataset(three: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "other", dataset="games", n=7)
    worker_for(three, tmp_path).run(until_empty=True)
    with three.begin() as connection:
        export(connection, tmp_path / "out.csv", "games")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 7


def test_export_of_an_unknown_dataset_names_the_known_ones(three: sa.Engine, tmp_path: Path) -> None:
    with (
        three.begin() as connection,
        pytest.raises(PypredictError, match="there is no dataset nosuch; the known datasets are: toys"),
    ):
        export(connection, tmp_path / "out.csv", "nosuch")
    assert not list(tmp_path.glob("out*"))


def test_export_to_an_invalid_path_writes_nothing(three: sa.Engine, tmp_path: Path) -> None:
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
def test_export_to_a_full_disk_keeps_the_old_file(
    three: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text("the last one")

    def mkstemp(**_: object) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / "aside")

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    with three.begin() as connection, pytest.raises(PypredictError, match="No space left on device"):
        export(connection, tmp_path / name, None)
    assert (tmp_path / name).read_text() == "the last one"


CELLS = ("=1+1", "+1", "-1.5", "-a", "@SUM(A1)", "\tx", "\rx", "\nx", "plain", "a=b", "")
SAFE = ("'=1+1", "+1", "-1.5", "'-a", "'@SUM(A1)", "'\tx", "'\rx", "'\nx", "plain", "a=b", "")


def test_75_texts_that_are_formulas_get_an_apostrophe_in_csv(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, classes=("=A1", "-1", "@x"))
    worker_for(engine, tmp_path).run(until_empty=True)
    (chunk,) = cut(
        np.zeros((len(CELLS), 4, 4, 1), np.uint8),
        np.zeros(len(CELLS), np.int32),
        classes=bundle.manifest.classes,
        **Preparation(bundle.manifest).identity,
        source="=cmd|' /C calc'!A0",
        names=CELLS,
    )
    with engine.begin() as connection:
        store.load_chunk(connection, chunk)
    worker_for(engine, tmp_path).run(until_empty=True)
    read: dict[str, list[dict[str, str]]] = {}
    for name, raw in (("safe.csv", False), ("raw.csv", True)):
        with engine.begin() as connection:
            export(connection, tmp_path / name, None, raw=raw)
        with (tmp_path / name).open(newline="") as file:
            read[name] = [row for row in csv.DictReader(file) if row["in_test_set"] == "f"]
    assert tuple(row["name"] for row in read["safe.csv"]) == SAFE
    assert {row["label"] for row in read["safe.csv"]} == {"'=A1"}
    assert {row["source"] for row in read["safe.csv"]} == {"'=cmd|' /C calc'!A0"}
    assert {row["predicted"][:1] for row in read["safe.csv"]} <= {"'", "-"}
    assert tuple(row["name"] for row in read["raw.csv"]) == CELLS
    assert {row["label"] for row in read["raw.csv"]} == {"=A1"}
    with engine.begin() as connection:
        export(connection, tmp_path / "out.parquet", None)
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert tuple(row["name"] for row in table if not row["in_test_set"]) == CELLS
