"""The whole pipeline with the real commands: train, publish, store, predict, compare; then the errors."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import REPO, Cluster, Database, new_database

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Pipeline:
    """A finished run of the pipeline: its directory, its database, and the output of each command."""

    directory: Path
    database: Database
    said: dict[str, str]

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_in(self.directory, self.database, *command, check=check, **environment)

    @property
    def bundle(self) -> Path:
        pointer = json.loads((self.directory / "models/current/digits.json").read_text())
        return self.directory / "models/bundles" / str(pointer["bundle_id"])

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        engine = self.database.engine()
        with engine.connect() as connection:
            rows = [tuple(row) for row in connection.execute(sa.text(statement))]
        engine.dispose()
        return rows


def run_in(
    directory: Path, database: Database, *command: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=directory,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PG", "WANDB", "PYML", "PYPREDICT"))}
        | {"DATABASE_URL": database.url("pypredict")}
        | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def pipeline(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    directory = tmp_path_factory.mktemp("pipeline")
    with new_database(cluster) as database:
        said = {}
        for title, *command in (
            ("train", "pyml", "all", str(REPO / "experiments/digits_cnn.json")),
            ("load", "pypredict", "load", "models/current/digits.json"),
            ("run", "pypredict", "run", "--until-empty"),
            ("report", "pypredict", "report"),
        ):
            done = run_in(directory, database, *command)
            said[title] = done.stdout + done.stderr
        yield Pipeline(directory, database, said)


def test_test_accuracy_is_at_least_98_percent(pipeline: Pipeline) -> None:
    ((accuracy,),) = pipeline.query("SELECT accuracy FROM ml.accuracy WHERE in_test_set")
    assert accuracy >= 0.98


def test_accuracy_in_sql_equals_the_manifest(pipeline: Pipeline) -> None:
    manifest = json.loads((pipeline.bundle / "manifest.json").read_text())
    ((accuracy, agrees),) = pipeline.query("SELECT accuracy, agrees FROM ml.accuracy WHERE in_test_set")
    assert agrees
    assert accuracy == manifest["metrics"]["accuracy"]
    assert repr(accuracy) in pipeline.said["report"]


def test_every_input_has_one_prediction_per_model(pipeline: Pipeline) -> None:
    ((predictions, inputs, models),) = pipeline.query(
        "SELECT (SELECT count(*) FROM ml.prediction), (SELECT count(*) FROM ml.input), (SELECT count(*) FROM ml.model)"
    )
    assert predictions == inputs * models == 360
    assert pipeline.query("SELECT * FROM ml.integrity") == []


def test_payloads_equal_the_arrays_of_the_test_set(pipeline: Pipeline) -> None:
    test_set = np.load(pipeline.bundle / "test_set.npz")
    rows = pipeline.query(
        "SELECT payload, label_no FROM ml.input JOIN ml.chunk USING (chunk_id) ORDER BY first_row, sample_no"
    )
    assert len(rows) == len(test_set["x"])
    for (payload, label), x, y in zip(rows, test_set["x"], test_set["y"], strict=True):
        array = np.load(io.BytesIO(payload))
        assert array.dtype == x.dtype
        assert np.array_equal(array, x)
        assert label == y


def test_plain_keras_gives_the_stored_predictions(pipeline: Pipeline) -> None:
    program = (
        "import sys, numpy, keras; m = keras.models.load_model(sys.argv[1] + '/model.h5');"
        "numpy.save(sys.argv[2], m.predict(numpy.load(sys.argv[1] + '/test_set.npz')['x'], verbose=0))"
    )
    out = pipeline.directory / "plain.npy"
    pipeline.run("python", "-c", program, str(pipeline.bundle), str(out))
    plain = np.load(out)
    rows = pipeline.query(
        "SELECT p.class_no, p.score, p.probs FROM ml.prediction p JOIN ml.input i USING (input_id)"
        " JOIN ml.chunk c USING (chunk_id) ORDER BY c.first_row, i.sample_no"
    )
    assert [row[0] for row in rows] == plain.argmax(axis=1).tolist()
    assert np.abs(np.array([row[1] for row in rows]) - plain.max(axis=1)).max() <= 1e-6
    assert np.abs(np.array([row[2] for row in rows]) - plain).max() <= 1e-6


def without_numbers(line: str) -> str:
    """Give a line without the log's time, numbers, hashes and columns' widths, which differ between machines."""
    line = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ INFO ", "", line)
    line = re.sub(r"-[0-9a-f]{12}\b", "-(hash)", line).replace(".local/report.html", "report.html")
    return " ".join(re.sub(r"\d[\d.,]*", "#", re.sub("─+", "─", line)).split())


def test_readme_shows_lines_that_make_run_prints_in_this_order(pipeline: Pipeline) -> None:
    (block,) = re.findall(r"What `make run` prints.*?```\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    said = {"repeat": pipeline.run("pypredict", "report", "--html", "report.html", "--replay", "all").stderr}
    titles = {"train": "train and publish", "load": "store the test set", "run": "predict the pending inputs"}
    titles |= {"report": "compare SQL with the manifest", "repeat": "repeat the predictions and write the report"}
    makefile = (REPO / "Makefile").read_text()
    assert [title for title in titles.values() if f"call step,{title}," not in makefile] == []
    printed = [line for part, title in titles.items() for line in [title, *(pipeline.said | said)[part].splitlines()]]
    real = iter([without_numbers(line) for line in printed])
    shown = [without_numbers(line) for line in block.splitlines() if line.strip() not in ("", "...")]
    assert len(shown) > 15
    assert [line for line in shown if line not in real] == []  # `in` goes on behind the line found before


def test_a_second_run_trains_nothing_and_writes_no_row(pipeline: Pipeline) -> None:
    everything = "SELECT md5(string_agg(t::text || t.xmin::text, '' ORDER BY t::text)) FROM ml.{} t"
    tables = ("model", "chunk", "test_set", "input", "job", "prediction", "prediction_error")
    before = [pipeline.query(everything.format(table)) for table in tables]
    assert "nothing trained" in pipeline.run("pyml", "train", str(REPO / "experiments/digits_cnn.json")).stderr
    assert (
        "0 inputs loaded, 360 were there already"
        in pipeline.run("pypredict", "load", "models/current/digits.json").stderr
    )
    assert "nothing was pending" in pipeline.run("pypredict", "run", "--until-empty").stderr
    assert [pipeline.query(everything.format(table)) for table in tables] == before


def test_check_finds_no_problem(pipeline: Pipeline) -> None:
    assert "ml.integrity is empty" in pipeline.run("pypredict", "check").stderr


def test_the_training_shows_no_warning_of_keras(pipeline: Pipeline) -> None:
    assert "legacy" not in pipeline.said["train"]


def test_all_predictions_are_repeated_bit_for_bit(pipeline: Pipeline) -> None:
    done = pipeline.run("pypredict", "check", "--replay", "all")
    assert "360 of 360 predictions repeated bit for bit" in done.stderr


def test_the_html_report_has_the_metrics_of_scikit_learn(pipeline: Pipeline) -> None:
    done = pipeline.run("pypredict", "report", "--html", "report.html", "--replay", "all")
    page = (pipeline.directory / "report.html").read_text()
    assert f"report: report.html ({len(page.encode())} bytes)" in done.stderr
    assert "replay: 360 of 360 predictions repeated bit for bit." in page
    assert page.count("<svg") == 2 + 4 + 4 + 3  # learning curves, ROC, precision-recall, confidence
    manifest = json.loads((pipeline.bundle / "manifest.json").read_text())
    metrics = manifest["metrics"]
    names = ("accuracy", "macro_f1", "auroc", "average_precision")
    cells = "".join(f"<td>{metrics[name]:.4f}</td>" for name in names)
    assert f'<th scope="row">this model</th>{cells}' in page
    for name, one in zip(manifest["classes"], metrics["per_class"], strict=True):
        shown = ("precision", "recall", "f1", "auroc", "average_precision")
        cells = "".join(f"<td>{one[metric]:.4f}</td>" for metric in shown)
        assert f'<th scope="row">{name}</th>{cells}<td>{one["n"]}</td>' in page


def test_ping_prints_version_and_milliseconds(pipeline: Pipeline) -> None:
    said = pipeline.run("pypredict", "ping").stdout
    assert "PostgreSQL" in said
    assert "round trip in" in said


def sentence(done: subprocess.CompletedProcess[str], program: str = "pypredict") -> str:
    """Return the one line of an error; fail the test if there is anything else."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{program}: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture
def copied(pipeline: Pipeline, tmp_path: Path) -> Path:
    """A copy of the models volume that a test may damage."""
    shutil.copytree(pipeline.directory / "models", tmp_path / "models")
    return tmp_path / "models"


def bundle_in(models: Path) -> Path:
    return next(path for path in (models / "bundles").iterdir() if not path.name.startswith("."))


def test_23_one_flipped_byte_in_the_model_is_refused(pipeline: Pipeline, copied: Path) -> None:
    model = bundle_in(copied) / "model.h5"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    done = pipeline.run("pypredict", "run", "--until-empty", PYPREDICT_MODELS=str(copied), check=False)
    assert "model.h5 has sha256" in sentence(done)


@pytest.mark.parametrize("name", ["model.h5", "manifest.json", "test_set.npz"])
def test_24_a_missing_file_is_named(pipeline: Pipeline, copied: Path, name: str) -> None:
    (bundle_in(copied) / name).unlink()
    done = pipeline.run("pypredict", "run", "--until-empty", PYPREDICT_MODELS=str(copied), check=False)
    assert name in sentence(done)


def test_22_a_truncated_model_is_refused(pipeline: Pipeline, copied: Path) -> None:
    model = bundle_in(copied) / "model.h5"
    model.write_bytes(model.read_bytes()[:1000])
    done = pipeline.run("pypredict", "load", str(copied / "current/digits.json"), check=False)
    assert "has 1000 bytes, the manifest says" in sentence(done)


def test_17_an_absent_database_is_named_in_one_sentence(pipeline: Pipeline) -> None:
    done = pipeline.run(
        "pypredict",
        "run",
        "--until-empty",
        DATABASE_URL="postgresql://x@127.0.0.1:1/ml",
        PYPREDICT_WAIT_SECONDS="1",
        check=False,
    )
    assert done.returncode == 1
    waiting, line = done.stderr.splitlines()
    assert "waiting up to 1 s for the database" in waiting
    assert line.startswith("pypredict: no database answered within 1 s (")


def test_18_a_wrong_password_is_refused_without_printing_it(pipeline: Pipeline) -> None:
    url = pipeline.database.url("pypredict").replace("@", "not-the-secret@")
    done = pipeline.run("pypredict", "check", DATABASE_URL=url, check=False)
    assert "refuses the login" in sentence(done)
    assert "not-the-secret" not in done.stdout + done.stderr


def test_19_an_old_schema_is_refused_with_the_command(pipeline: Pipeline, db: Database) -> None:
    engine = db.engine()
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE ml.alembic_version SET version_num = '0000'"))
    engine.dispose()
    done = pipeline.run("pypredict", "run", "--until-empty", DATABASE_URL=db.url("pypredict"), check=False)
    assert "run `pypredict migrate`" in sentence(done)


def test_an_invalid_setting_is_named(pipeline: Pipeline) -> None:
    done = pipeline.run("pypredict", "check", PYPREDICT_LEASE_SECONDS="soon", check=False)
    assert "lease_seconds" in sentence(done)


def test_53_a_broken_experiment_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"name": ')
    done = pipeline.run(
        "pyml", "train", str(tmp_path / "broken.json"), PYML_MODELS=str(tmp_path / "models"), check=False
    )
    assert "broken.json" in sentence(done, "pyml")
    assert not (tmp_path / "models/current").exists()
