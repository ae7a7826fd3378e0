"""notebooks/analysis.ipynb, run by nbclient on a model of digits, of film reviews and of photographs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import numpy as np
import pytest
import sqlalchemy as sa
from conftest import REPO, Cluster, Database, new_database
from nbclient import NotebookClient
from support.trainings import DIGITS, only_bundle, pyml, write_experiment
from support.wandb_server import WandbServer

from bundle.manifest import Manifest
from bundle.verify import Bundle

NOTEBOOK = REPO / "notebooks/analysis.ipynb"
PYPREDICT = Path(sys.executable).with_name("pypredict")
SCRIPT = NOTEBOOK.with_suffix(".py")
DATA = Path(os.environ.get("PYML_DATA_DIR") or REPO.parent / "shared/data")
MATRICES = "import json; print(json.dumps({source: matrix.tolist() for source, matrix in matrices.items()}))"
REVIEWS: dict[str, Any] = {
    "name": "tiny_reviews",
    "data": {"name": "imdb", "validation": 0.1, "words": 5000, "length": 400},
    "layers": [
        {"layer": "Embedding", "input_dim": 5000, "output_dim": 4},
        {"layer": "GlobalAveragePooling1D"},
        {"layer": "Dense", "units": 1, "activation": "sigmoid"},
    ],
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "loss": "binary_crossentropy",
    "epochs": 1,
    "batch_size": 256,
}
PHOTOGRAPHS: dict[str, Any] = {
    "name": "tiny_photographs",
    "data": {"name": "animals", "kind": "image-folder", "path": "animals", "height": 32, "width": 32}
    | {"color": "rgb", "validation": 0.15, "test": 0.2},
    "layers": [
        {"layer": "Rescaling", "scale": 1 / 255},
        {"layer": "Flatten"},
        {"layer": "Dense", "units": 3, "activation": "softmax"},
    ],
    "optimizer": {"name": "Adam", "learning_rate": 0.0001},
    "loss": "sparse_categorical_crossentropy",
    "epochs": 1,
    "batch_size": 64,
}


COLOURS = PHOTOGRAPHS | {
    "name": "colours",
    "layers": [*PHOTOGRAPHS["layers"][:2], {"layer": "Dense", "units": 2, "activation": "softmax"}],
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "epochs": 10,
    "batch_size": 8,
}


@dataclass(frozen=True)
class Executed:
    """The outputs of a run of the notebook: the printed text, the number of charts, the matrices by source."""

    text: str
    n_charts: int
    matrices: dict[str, list[list[int]]]


def execute(directory: Path, *code: str, **environment: str) -> Executed:
    """Run the notebook, and `code` after it, in a directory with `models/`. Raises CellExecutionError."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(one) for one in code]
    notebook.cells.append(nbformat.v4.new_code_cell(MATRICES))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "WANDB", "PYML", "ANALYSIS"))}
    variables = kept | {"HOME": str(directory), "WANDB_DIR": str(directory)} | environment
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": directory}}).execute(env=variables)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.text for output in outputs if output.get("name") == "stdout")
    lines = text.strip().split("\n")
    n_charts = sum("image/png" in output.get("data", {}) for output in outputs)
    return Executed("\n".join(lines[:-1]), n_charts, json.loads(lines[-1]))


def train(directory: Path, document: dict[str, Any], **environment: str) -> Bundle:
    done = pyml("train", write_experiment(directory, document), "--promote", cwd=directory, **environment)
    assert done.returncode == 0, done.stderr
    return only_bundle(directory / "models", document["name"])


def libpq(database: Database) -> dict[str, str]:
    """Give libpq's variables of a database; the user and the password are those of `reader`."""
    url = sa.make_url(database.url("reader"))
    assert url.host is not None
    assert url.password is not None
    return {"PGHOST": url.host, "PGPORT": str(url.port), "PGDATABASE": database.name, "PGPASSWORD": url.password}


def predict_test_set(directory: Path, database: Database) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYPREDICT"))}
    environment["DATABASE_URL"] = database.url("pypredict")
    for command in (["load", "models/current/digits.json"], ["run", "--until-empty"]):
        subprocess.run([PYPREDICT, *command], cwd=directory, env=environment, check=True, timeout=100)


def confusion(manifest: Manifest) -> list[list[int]]:
    return [list(row) for row in manifest.metrics.confusion]


# Digits, with a database and with a W&B server


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def digits(directory: Path) -> Bundle:
    return train(directory, DIGITS, WANDB_MODE="offline", PYML_RECORD=str(directory / "record"))


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    with new_database(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def everywhere(directory: Path, digits: Bundle, database: Database) -> Executed:
    """Run it where the predictions are in the bundle, in the database and at the W&B server."""
    predict_test_set(directory, database)
    with WandbServer() as server:
        account = server.environment(directory)
        synced = pyml("sync", cwd=directory, **account, WANDB_MODE="online", PYML_RECORD=str(directory / "record"))
        assert synced.stdout == "1 run arrived\n", synced.stderr
        done = execute(directory, **libpq(database), **account)
        assert server.unknown_operations == []
    return done


def test_the_three_confusion_matrices_are_that_of_the_manifest(everywhere: Executed, digits: Bundle) -> None:
    wanted = confusion(digits.manifest)
    assert everywhere.matrices == {"the bundle": wanted, "PostgreSQL": wanted, "Weights & Biases": wanted}
    for source in everywhere.matrices:
        assert f"{source}: the same counts as the bundle" in everywhere.text
        assert f"{source}: {sum(map(sum, wanted))} test samples, {digits.manifest.metrics.n_correct} correct" in (
            everywhere.text
        )


def test_digits_have_a_chart_for_each_section_that_fits(everywhere: Executed) -> None:
    assert everywhere.n_charts == 1 + 1 + 3  # classes, average images, confusion matrices
    assert "average images: 10, one for each class" in everywhere.text
    assert "colour histograms: left out" in everywhere.text
    assert "words: left out" in everywhere.text


def test_the_class_distribution_counts_each_split(everywhere: Executed, digits: Bundle) -> None:
    rows = re.findall(r"^(\w+): (\{.*\})$", everywhere.text, re.MULTILINE)
    counts = {name: json.loads(row.replace("'", '"')) for name, row in rows}
    assert counts["test"] == {
        name: one.n for name, one in zip(digits.manifest.classes, digits.manifest.metrics.per_class, strict=True)
    }
    assert sum(sum(split.values()) for split in counts.values()) == 1797


def test_the_data_are_those_of_the_training(everywhere: Executed) -> None:
    assert "the data are those of the training" in everywhere.text


def test_a_source_that_is_not_there_is_named(directory: Path, digits: Bundle) -> None:
    done = execute(directory)
    assert "PostgreSQL: left out, for PGHOST is not set" in done.text
    assert "Weights & Biases: left out, for nobody is logged in" in done.text
    assert list(done.matrices) == ["the bundle"]


def test_a_source_without_this_model_is_named(directory: Path, digits: Bundle, db: Database) -> None:
    with WandbServer() as server:
        done = execute(directory, **libpq(db), **server.environment(directory))
    assert f"PostgreSQL: left out, for it has no test set of {digits.manifest.bundle_id}" in done.text
    assert "Weights & Biases: left out, for the run cannot be read" in done.text
    assert list(done.matrices) == ["the bundle"]


def test_a_database_that_does_not_answer_is_named(directory: Path, digits: Bundle, database: Database) -> None:
    done = execute(directory, **libpq(database) | {"PGPORT": "1"})
    assert re.search(r"PostgreSQL: left out, for it cannot be read \(.*port 1 failed", done.text)


def test_a_database_without_the_schema_is_named(
    directory: Path, digits: Bundle, database: Database, cluster: Cluster
) -> None:
    with new_database(cluster, template="template0") as empty:
        done = execute(directory, **libpq(empty))
    assert re.search(r"PostgreSQL: left out, for it cannot be read \(.*ml\.\w+", done.text)


# Colours that are known, and a name that is no formula


def train_colours(directory: Path, dtype: str) -> Bundle:
    """Train on images of one colour each, (200, 100, 0) and (10, 250, 250); one pixel makes each image another one."""
    x = np.repeat(np.array([[200, 100, 0], [10, 250, 250]]), 60, axis=0)[:, None, None, :] * np.ones((1, 8, 8, 1))
    x[:, 0, 0, 0] = np.arange(120)
    names = np.repeat(np.array(["a$b^$", "dog"]), 60)
    np.savez(directory / "colours.npz", x=x.astype(dtype), y=names)
    data = {"name": "colours", "kind": "npz", "path": "colours.npz", "validation": 0.2, "test": 0.2}
    return train(directory, COLOURS | {"data": data})


def test_average_images_and_colours_are_those_of_the_samples(tmp_path: Path) -> None:
    train_colours(tmp_path, "uint8")
    done = execute(tmp_path, "print([round(float(value)) for value in mean_image(0)[1:].mean((0, 1))])",
                   ANALYSIS_DATASET="colours", PYML_DATA_DIR=str(tmp_path))  # fmt: skip
    assert "[200, 100, 0]" in done.text
    assert re.search(r"^a\$b\^\$: below 64 are [0-2]% of red, 0% of green, 100% of blue$", done.text, re.MULTILINE)


def test_arrays_of_another_range_are_no_colours(tmp_path: Path) -> None:
    train_colours(tmp_path, "float32")
    done = execute(tmp_path, ANALYSIS_DATASET="colours", PYML_DATA_DIR=str(tmp_path))
    assert "average images: left out" in done.text
    assert "colour histograms: left out, for the samples are no colour images of uint8" in done.text


# Film reviews and photographs


def real_data(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"NO REAL DATA in {DATA}: name the directory with PYML_DATA_DIR; nothing was tested")
    return DATA


def test_the_common_words_of_reviews_have_the_line_break(tmp_path: Path) -> None:
    data = str(real_data("imdb"))
    bundle = train(tmp_path, REVIEWS, PYML_DATA_DIR=data)
    done = execute(tmp_path, ANALYSIS_DATASET="imdb", PYML_DATA_DIR=data)
    common, least = (re.findall(r"(\S+) (\d+)", line) for line in re.findall(r"common: (.*)", done.text))
    assert [word for word, _ in common][:3] == ["the", "and", "a"]
    assert "br" in dict(common)
    assert len(common) == len(least) == 20
    assert min(int(n) for _, n in common) > 100 * max(int(n) for _, n in least)
    assert "it is what is left of the HTML line break <br />" in done.text
    assert "average images: left out" in done.text
    assert done.n_charts == 1 + 1 + 1  # classes, words, one confusion matrix
    assert done.matrices == {"the bundle": confusion(bundle.manifest)}


def test_photographs_have_colours_and_average_images(tmp_path: Path) -> None:
    data = str(real_data("animals"))
    bundle = train(tmp_path, PHOTOGRAPHS, PYML_DATA_DIR=data)
    done = execute(tmp_path, ANALYSIS_DATASET="animals", PYML_DATA_DIR=data)
    assert "average images: 3, one for each class" in done.text
    shares = {
        name: [int(share) for share in re.findall(r"(\d+)%", row)]
        for name, row in re.findall(r"^(\w+): below 64 are (.*)$", done.text, re.MULTILINE)
    }
    assert list(shares) == ["cat", "dog", "snake"]
    assert all(len(row) == 3 and 0 < min(row) <= max(row) < 100 for row in shares.values())
    assert "words: left out" in done.text
    assert done.n_charts == 1 + 1 + 1 + 1  # classes, average images, colours, one confusion matrix
    assert np.array_equal(done.matrices["the bundle"], confusion(bundle.manifest))


# The pair of files


def test_the_notebook_has_the_cells_of_the_script() -> None:
    notebook, script = nbformat.read(NOTEBOOK, as_version=4), jupytext.read(SCRIPT)
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in script.cells], "make notebook brings them in step"
    assert len(cells) >= 20


def test_the_notebook_is_stored_without_outputs() -> None:
    code = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert len(code) >= 10
