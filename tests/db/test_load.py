"""`pypredict load` and `pypredict predict` as commands: labels are classes of the model, inputs keep their names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import publish_bundle, publish_images, publish_texts, write_image
from support.workers import daemon, listens, rows, until, worker_for

from pypredict.labels import Labelling
from pypredict.load import preparation
from pypredict.predict_items import predict_items
from pypredict.source import TextColumns, read_source

MAPPED = Labelling(mapping={"cats": "cat", "wasp": "bee"})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def pypredict(db: Database, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from pypredict.cli import main; main()", *map(str, arguments)],
        env=os.environ | {"DATABASE_URL": db.url("pypredict"), "PYPREDICT_MODELS": str(cwd / "models")},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def ten_photographs(folder: Path) -> Path:
    """Write ten photographs in four folders; two folder names are not classes of the model."""
    for number, label in enumerate(["ant"] * 2 + ["bee"] * 3 + ["cats"] * 3 + ["wasp"] * 2):
        write_image(folder / label / f"IMG_{number:04}.png", number)
    return folder


def test_photographs_with_unknown_labels_need_a_label_map(
    engine: sa.Engine, db: Database, models: Path, tmp_path: Path
) -> None:
    publish_images(models)
    worker_for(engine, models).run(until_empty=True)
    ten_photographs(tmp_path / "photographs")

    refused = pypredict(db, "load", "photographs", "--dataset", "pictures", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == (
        "pypredict: photographs holds labels that are not classes of the model: cats, wasp; its classes are "
        "ant, bee, cat; give --label-map FILE with lines such as cats=cat, or --ignore-labels\n"
    )
    assert rows(engine, "SELECT count(*) FROM ml.chunk WHERE source = 'photographs'") == [(0,)]

    (tmp_path / "labels.txt").write_text("# what the folders hold\ncats=cat\nwasp=bee\n")
    arguments = ("photographs", "--dataset", "pictures", "--label-map", "labels.txt")
    loaded = pypredict(db, "load", *arguments, cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert "photographs: 10 inputs loaded, 0 were there already" in loaded.stderr
    worker_for(engine, models).run(until_empty=True)
    assert rows(engine, "SELECT label, count(*) FROM ml.outcome WHERE NOT in_test_set GROUP BY 1 ORDER BY 1") == [
        ("ant", 2),
        ("bee", 5),
        ("cat", 3),
    ]
    assert rows(engine, "SELECT n FROM ml.accuracy WHERE NOT in_test_set") == [(10,)]

    # ml.outcome, which pgAdmin shows, has the prediction of each file
    assert dict(rows(engine, "SELECT name, predicted FROM ml.outcome WHERE NOT in_test_set")) == {
        f"{label}/IMG_{number:04}.png": ("ant", "bee", "cat")[number % 3]
        for number, label in enumerate(["ant"] * 2 + ["bee"] * 3 + ["cats"] * 3 + ["wasp"] * 2)
    }


def test_ignore_labels_stores_a_folder_without_labels(
    engine: sa.Engine, db: Database, models: Path, tmp_path: Path
) -> None:
    publish_images(models)
    ten_photographs(tmp_path / "photographs")
    done = pypredict(db, "load", "photographs", "--dataset", "pictures", "--ignore-labels", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(engine, "SELECT n_inputs, classes FROM ml.chunk") == [(10, None)]
    assert rows(engine, "SELECT count(*) FROM ml.input WHERE label_no IS NULL") == [(10,)]


def test_numbers_in_a_csv_need_a_label_map(engine: sa.Engine, db: Database, models: Path, tmp_path: Path) -> None:
    publish_texts(models)
    (tmp_path / "mine.csv").write_text("text,label\ngood,1\nbad,0\n")
    arguments = ("mine.csv", "--dataset", "reviews", "--label-column", "label")
    refused = pypredict(db, "load", *arguments, cwd=tmp_path)
    assert refused.returncode == 1
    assert "not classes of the model: 0, 1; its classes are ant, bee, cat" in refused.stderr
    assert rows(engine, "SELECT * FROM ml.chunk") == []
    (tmp_path / "labels.txt").write_text("0=ant\n1=bee\n2=cat\n")
    done = pypredict(db, "load", *arguments, "--label-map", "labels.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "labels.txt: no input has the label 2; check the spelling" in done.stderr
    assert rows(engine, "SELECT label FROM ml.inputs ORDER BY sample_no") == [("bee",), ("ant",)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ignore-labels", "--label-map", "labels.txt"), "exclude each other; give one of them"),
        (("--label-map", "labels.txt"), r"labels.txt, line 1: 'cats' is not label=class"),
        (("--ignore-labels",), "is a bundle, and its test set has labels already"),
    ],
)
def test_invalid_label_options_are_refused_in_one_sentence(
    engine: sa.Engine, db: Database, models: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    publish_bundle(models)
    (tmp_path / "labels.txt").write_text("cats\n")
    done = pypredict(db, "load", "models/current/toys.json", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert rows(engine, "SELECT * FROM ml.chunk") == []


def test_the_same_content_keeps_its_first_name(engine: sa.Engine, db: Database, models: Path, tmp_path: Path) -> None:
    publish_images(models)
    for name in ("first", "second"):
        write_image(tmp_path / name / "x.png", 7)
    done = pypredict(db, "load", "first", "second", "--dataset", "pictures", cwd=tmp_path)
    assert "first: 1 inputs loaded, 0 were there already\n" in done.stderr
    assert "second: 0 inputs loaded, 1 were there already, stored as first\n" in done.stderr
    assert rows(engine, "SELECT source FROM ml.chunk") == [("first",)]


def test_texts_are_prepared_with_all_words_of_the_bundle(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_texts(models, known=("rare",))
    worker_for(engine, models).run(until_empty=True)
    (tmp_path / "mine.csv").write_text("text\ngood rare strange bad\n")
    (chunk,) = read_source(tmp_path / "mine.csv", preparation(engine, models, "reviews"), TextColumns())
    assert chunk.arrays.tolist() == [[0, 0, 0, 0, 1, 4, 2, 5]]
    assert rows(engine, "SELECT cardinality(words) FROM ml.vocabulary") == [(8,)]


def test_predict_prints_predictions_then_failures(
    engine: sa.Engine, db: Database, models: Path, tmp_path: Path
) -> None:
    publish_images(models)
    worker_for(engine, models).run(until_empty=True)
    for value in (3, 4):
        write_image(tmp_path / f"{value}.png", value)
    for value in (3, 4):  # predicted before the command runs, because this bundle has no Keras model
        assert pypredict(db, "load", f"{value}.png", "--dataset", "pictures", cwd=tmp_path).returncode == 0
    worker_for(engine, models).run(until_empty=True)
    done = pypredict(db, "predict", "3.png", "none.png", "4.png", "--dataset", "pictures", cwd=tmp_path)
    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines() if ".png" in line] == [
        ["3.png", "ant"],
        ["4.png", "bee"],
    ]
    assert done.stderr.splitlines()[-1].startswith(
        "pypredict: 1 of 3 inputs could not be predicted: none.png does not exist"
    )


def test_predict_text_treats_every_argument_as_text(
    engine: sa.Engine, db: Database, models: Path, tmp_path: Path
) -> None:
    publish_texts(models)
    # predicted before the command runs, because this bundle has no Keras model
    predict_items(worker_for(engine, models), "reviews", ["none.txt"], 5, as_text=True)
    refused, done = (
        pypredict(db, "predict", "none.txt", "--dataset", "reviews", *text, cwd=tmp_path) for text in ((), ("--text",))
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("pypredict: none.txt looks like a file and does not exist; ")
    assert done.returncode == 0, done.stderr
    assert "none.txt" in done.stdout


def test_load_continues_after_a_broken_bundle(db: Database, engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    broken = publish_bundle(models, "broken", dataset="birds")
    publish_bundle(models, "whole", dataset="toys")
    (broken.path / "test_set.npz").unlink()
    pointers = [models / f"current/{name}.json" for name in ("birds", "toys")]
    done = pypredict(db, "load", *pointers, cwd=tmp_path)
    assert done.returncode == 1
    assert "test_set.npz cannot be read (No such file or directory)" in done.stderr.splitlines()[-1]
    assert rows(engine, "SELECT dataset, n_inputs FROM ml.chunk") == [("toys", 30)]


TITLE = "x\x1b]0;owned\x07\nERROR all is lost"  # a terminal takes the first part for its new title
SHOWN = r"x\x1b]0;owned\x07\nERROR all is lost"


def test_names_with_escape_sequences_are_escaped_in_every_output(
    engine: sa.Engine, models: Path, db: Database, tmp_path: Path
) -> None:
    publish_images(models)
    worker_for(engine, models).run(until_empty=True)
    folder, broken = tmp_path / TITLE, tmp_path / TITLE / f"{TITLE}.jpg"
    image = write_image(folder / f"{TITLE}.png", 3)
    broken.write_bytes(b"")
    loaded = pypredict(db, "load", folder, "--dataset", "pictures", cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert [SHOWN in line for line in loaded.stderr.splitlines()] == [True] * 3  # skipped, the count, the sum
    with daemon(engine, models):
        until(lambda: listens(engine))
        answered = pypredict(db, "predict", image, broken, "--dataset", "pictures", cwd=tmp_path)
    assert answered.returncode == 1
    assert SHOWN in answered.stderr
    assert "0;owned" in answered.stdout
    for done in (loaded, answered):
        assert "\x1b" not in done.stdout + done.stderr
        assert "\nERROR" not in done.stdout + done.stderr
    assert rows(engine, "SELECT count(*) FROM ml.input_name WHERE name LIKE '%' || chr(27) || '%'") == [(1,)]


def test_load_names_what_is_no_file_and_loads_the_rest(
    engine: sa.Engine, models: Path, db: Database, tmp_path: Path
) -> None:
    publish_images(models)
    worker_for(engine, models).run(until_empty=True)
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    good = write_image(tmp_path / "good.png", 3)
    done = pypredict(db, "load", "fifo.png", "zero.npy", good, "--dataset", "pictures", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("not a regular file") == 2
    assert rows(engine, "SELECT name FROM ml.input_name WHERE name LIKE '%.png'") == [("good.png",)]
