"""The view ml.drift: a changed share of a class is seen, chance is not."""

import math
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import CLASSES, arrays_and_labels, publish_bundle
from support.workers import load, rows, worker_for

from bundle.verify import Bundle

COUNT_BY_CLASS = """
    SELECT count(*) FILTER (WHERE predicted = 'ant'), count(*) FILTER (WHERE predicted = 'bee'),
           count(*) FILTER (WHERE predicted = 'cat')
    FROM ml.outcome WHERE in_test_set = {}"""


@pytest.fixture
def published(tmp_path: Path) -> Bundle:
    return publish_bundle(tmp_path, n=600)


def predict(engine: sa.Engine, models: Path, bundle: Bundle, arrays: np.ndarray) -> None:
    load(engine, bundle, arrays)
    worker_for(engine, models).run(until_empty=True)


def ants(n: int) -> np.ndarray:
    """Inputs of which half are ants, whose first pixel is a multiple of three."""
    arrays, _ = arrays_and_labels(n, seed=5)
    arrays[: n // 2, 0, 0, 0] = 3
    return arrays


def test_psi_equals_its_formula(engine: sa.Engine, tmp_path: Path, published: Bundle) -> None:
    predict(engine, tmp_path, published, ants(500))
    (expected,), (actual,) = rows(engine, COUNT_BY_CLASS.format(True)), rows(engine, COUNT_BY_CLASS.format(False))
    psi = 0.0
    for e, a in zip(expected, actual, strict=True):
        e_share, a_share = (e + 0.5) / (600 + 1.5), (a + 0.5) / (500 + 1.5)
        psi += (a_share - e_share) * math.log(a_share / e_share)
    ((found, n, test_n, shares, test_shares),) = rows(
        engine, "SELECT psi, n, test_n, shares, test_shares FROM ml.drift"
    )
    assert found == pytest.approx(psi, rel=1e-9)
    assert (n, test_n) == (500, 600)
    assert shares == pytest.approx([a / 500 for a in actual])
    assert test_shares == pytest.approx([e / 600 for e in expected])


def test_a_changed_class_share_is_more_than_chance(engine: sa.Engine, tmp_path: Path, published: Bundle) -> None:
    predict(engine, tmp_path, published, ants(500))
    ((psi, by_chance),) = rows(engine, "SELECT psi, psi_by_chance FROM ml.drift")
    assert psi > max(0.1, by_chance)


def test_inputs_like_the_test_set_show_no_change(engine: sa.Engine, tmp_path: Path, published: Bundle) -> None:
    predict(engine, tmp_path, published, arrays_and_labels(500, seed=5)[0])
    ((psi, by_chance, score, test_score),) = rows(
        engine, "SELECT psi, psi_by_chance, mean_score, test_mean_score FROM ml.drift"
    )
    assert psi < by_chance < 0.1
    assert score == pytest.approx(test_score) == pytest.approx(0.9)


def test_a_class_that_is_never_predicted_has_a_finite_psi(engine: sa.Engine, tmp_path: Path, published: Bundle) -> None:
    arrays = np.zeros((50, 4, 4, 1), np.uint8)
    arrays[:, 0, 0, 0] = 3 * np.arange(50)  # ants only
    predict(engine, tmp_path, published, arrays)
    ((psi, shares),) = rows(engine, "SELECT psi, shares FROM ml.drift")
    assert shares == [1.0, 0.0, 0.0]
    assert 1 < psi < 20


def test_each_day_and_source_has_its_row(
    owner: sa.Engine, engine: sa.Engine, tmp_path: Path, published: Bundle
) -> None:
    predict(engine, tmp_path, published, ants(100))
    with owner.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE ml.chunk SET created_at = '2026-01-01 23:30+00', source = 'yesterday' WHERE source = 'a test'"
            )
        )
    predict(engine, tmp_path, published, arrays_and_labels(200, seed=6)[0])
    found = rows(engine, "SELECT day::text = '2026-01-01', source, n FROM ml.drift ORDER BY day")
    assert found == [(True, "yesterday", 100), (False, "a test", 200)]


def test_the_reader_reads_the_drift(db: Database, engine: sa.Engine, tmp_path: Path, published: Bundle) -> None:
    predict(engine, tmp_path, published, ants(100))
    reader = db.engine("reader")
    assert rows(reader, "SELECT n, cardinality(shares) FROM ml.drift") == [(100, len(CLASSES))]
    reader.dispose()
