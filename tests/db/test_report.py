"""The tables in the terminal fit into 80 columns, and no number is cut."""

import re
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import publish_bundle
from support.workers import console, load, worker_for

from pypredict import PypredictError, registry
from pypredict.models import Predict
from pypredict.report import history_table, models_table, print_inputs, show

NAME = "a_very_long_experiment_name-learning_rate_0.0001-units_150"


def predict_many(n_classes: int) -> Predict:
    def predict(arrays: np.ndarray) -> np.ndarray:
        first = arrays.reshape(len(arrays), -1)[:, 0].astype(int) % n_classes
        probabilities: np.ndarray = np.eye(n_classes, dtype=np.float32)[first]
        return probabilities

    return predict


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("n_classes", [3, 10, 20])
def test_the_report_fits_80_columns_and_cuts_no_number(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], n_classes: int
) -> None:
    classes = tuple(f"a class of long name {number}" for number in range(n_classes))
    publish_bundle(tmp_path, NAME, n=3000, classes=classes)
    worker_for(engine, tmp_path, predict_many(n_classes)).run(until_empty=True)
    with engine.begin() as connection:
        show(connection, console(80))
        counts = connection.execute(sa.text("SELECT n FROM ml.confusion WHERE n > 9")).scalars().all()
        (accuracy,) = connection.execute(sa.text("SELECT accuracy FROM ml.accuracy")).scalars()
    shown = lines(capsys)
    assert max(map(len, shown)) <= 80
    words = re.findall(r"[\d.]+", "\n".join(shown))
    assert {"3000", repr(accuracy)} <= set(words)
    assert counts
    assert {str(n) for n in counts if n_classes < 20} <= set(words)
    assert ("Most frequent mistakes" in "".join(shown)) is (n_classes == 20)


def test_a_too_wide_matrix_becomes_a_list_of_mistakes(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tuple(f"class {number}" for number in range(30))
    publish_bundle(tmp_path, n=500, classes=classes)
    worker_for(engine, tmp_path, predict_many(30)).run(until_empty=True)
    with engine.begin() as connection:
        show(connection, console(80))
        worst = connection.execute(
            sa.text("SELECT label, predicted, n FROM ml.confusion WHERE label <> predicted ORDER BY n DESC LIMIT 1")
        ).one()
    after = lines(capsys)
    start = next(number for number, line in enumerate(after) if "Most frequent mistakes" in line)
    first = next(line for line in after[start:] if line.strip().startswith("class"))
    assert first.split()[-1] == str(worst.n)


def test_models_and_their_history_fit_80_columns(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_bundle(tmp_path, NAME, n=1000, n_correct=997)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        console(80).print(models_table(registry.list_models(connection)))
        console(80).print(history_table(connection, "toys"))
    shown = lines(capsys)
    assert max(map(len, shown)) <= 80
    assert "0.9970" in "\n".join(shown)


def test_inputs_are_shown_with_label_prediction_and_drawing(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_bundle(tmp_path, shape=(28, 28, 1))
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        row = connection.execute(sa.text("SELECT * FROM ml.outcome ORDER BY input_id DESC LIMIT 1")).one()
        drawn = connection.execute(sa.text(f"SELECT ml.show({row.input_id})")).scalar_one()
        with pytest.raises(PypredictError, match=r"^there is no input 0; the view ml\.inputs lists all inputs$"):
            print_inputs(connection, console(80), [0, row.input_id])
    title, label, *image = capsys.readouterr().out.splitlines()
    assert title == f"input {row.input_id} of toys: {row.name}"
    assert label == f"label {row.label}, predicted {row.predicted} ({row.score:.4f})"
    assert [line.rstrip() for line in image] == [line.rstrip() for line in drawn.split("\n")]


def test_an_input_without_label_and_prediction_says_so(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(engine, publish_bundle(tmp_path), np.ones((1, 4, 4, 1), np.uint8))
    with engine.begin() as connection:
        number = connection.execute(sa.text("SELECT input_id FROM ml.input")).scalar_one()
        print_inputs(connection, console(80), [number])
    assert "no label, not predicted yet" in capsys.readouterr().out.splitlines()
