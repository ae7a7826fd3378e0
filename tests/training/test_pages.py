"""README's table of tasks, own data, inspecting, retention: the commands run, and print what the page shows."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, Cluster, Database, new_database
from PIL import Image
from support.page_commands import PageCommand, commands

BIN = Path(sys.executable).parent
PAGES = ("docs/own-data.md", "docs/inspecting.md", "docs/retention.md")
FIRST = (  # what the pages expect to be there
    "pyml train experiments/digits_cnn.json",
    "pyml train experiments/animals.json",
    "pyml train experiments/reviews.json",
    "pypredict load models/current/digits.json",
    "pypredict load wrong.csv --dataset reviews --label-column label",
    "pypredict run --until-empty",
    "sed s/digits_cnn/second/ experiments/digits_cnn.json > experiments/second.json",
    "pyml train experiments/second.json --promote",
    "pypredict run --until-empty",
)
LEARN = {
    "loss": "sparse_categorical_crossentropy",
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "epochs": 3,
    "batch_size": 16,
}
ANIMALS = {
    "name": "animals",
    "data": {"name": "animals", "kind": "image-folder", "path": "animals", "height": 16, "width": 16,
             "validation": 0.2, "test": 0.2},
    "layers": [{"layer": "Rescaling", "scale": 0.004}, {"layer": "Flatten"},
               {"layer": "Dense", "units": 3, "activation": "softmax"}],
}  # fmt: skip
REVIEWS = {
    "name": "reviews",
    "data": {"name": "reviews", "kind": "text-csv", "path": "reviews.csv", "text_column": "text",
             "label_column": "label", "words": 50, "length": 8, "validation": 0.2, "test": 0.2},
    "layers": [{"layer": "Embedding", "input_dim": 50, "output_dim": 4}, {"layer": "GlobalAveragePooling1D"},
               {"layer": "Dense", "units": 2, "activation": "softmax"}],
}  # fmt: skip
# What the words in capitals of README's table stand for in this test. FILE and PATH: by the command.
VALUES = {
    "NAME": "digits", "MODEL": "1", "DATASET": "digits", "INPUT_ID": "1", "PATH": "one.npy",
    "BUNDLE": "models/bundles/digits_cnn-*",
    "RUN": "digits_cnn",
}  # fmt: skip
FILES = {"pyml train": "experiments/digits_cnn.json", "pypredict predict": "one.npy"}
NOT_RUN = {
    "make": "CI runs the targets",
    "wandb": "a full-screen program",
    "pyml train experiments/mnist_cnn.json": "test_targets.py trains it",
    "pypredict prune": "needs the owner's login; tests/db/test_prune.py and test_prune_bundles.py",
    "pypredict metrics": "serves until it is stopped; tests/db/test_observe.py",
    "pyml sync": "needs an account; tests/tracking has a server for it",
}


def draw(path: Path, color: int) -> None:
    """Write a picture of noise around one color."""
    random = np.random.default_rng(zlib.crc32(str(path).encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(color, color + 60, (20, 20, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that the pages name."""
    at = tmp_path_factory.mktemp("pages")
    shutil.copytree(REPO / "experiments", at / "experiments")
    for experiment in (ANIMALS, REVIEWS):
        (at / f"experiments/{experiment['name']}.json").write_text(json.dumps(experiment | LEARN))
    for color, name in ((0, "cat"), (90, "dog"), (180, "snake")):
        for number in range(30):
            draw(at / f"animals/{name}/{number}.png", color)
    for folder, first, count in (("cats", 1, 3), ("dog", 4, 5), ("wolf", 9, 2)):
        for number in range(first, first + count):
            draw(at / f"photographs/{folder}/IMG_{number:04}.jpg", 90)
    (at / "labels.txt").write_text("\n".join(re.findall(r"^    (\w+=\w+)$", page("docs/own-data.md"), re.MULTILINE)))
    draw(at / "cat.jpg", 0)
    draw(at / "dog.jpg", 90)
    np.save(at / "one.npy", np.full((8, 8, 1), 7, np.uint8))
    rows = [
        f"a {word} film {number},{label}" for number in range(40) for word, label in (("good", "pos"), ("bad", "neg"))
    ]
    (at / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    for name, labels in (("wrong", "neg pos"), ("right", "pos neg")):
        lines = [f"a {word} book,{label}" for word, label in zip(("good", "bad"), labels.split(), strict=True)]
        (at / f"{name}.csv").write_text("\n".join(["text,label", *lines]))
    (at / "review.txt").write_text("a good film")
    return at


@pytest.fixture(scope="module")
def database(cluster: Cluster, directory: Path) -> Iterator[Database]:
    with new_database(cluster) as made:
        for command in FIRST:
            done = run(directory, made, command)
            assert done.returncode == 0, done.stdout
        yield made


def page(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def run(directory: Path, database: Database, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, a prune as the owner; its output and its messages come in one text."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "WANDB", "PYML", "PYPREDICT"))}
    login = None if command.startswith("pypredict prune") else "pypredict"
    places = {"PATH": f"{BIN}:{kept['PATH']}", "DATABASE_URL": database.url(login), "PYML_DATA_DIR": "."}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", re.sub(r"[\[\]]", "", command.replace("NAME", "digits"))],
        cwd=directory,
        env=kept | places,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [command for name in PAGES for command in commands(REPO / name) if command.program == "pypredict"],
    ids=lambda command: command.text,
)
def test_a_command_of_a_page_prints_what_the_page_shows(
    directory: Path, database: Database, command: PageCommand
) -> None:
    done = run(directory, database, command.text)
    refused = command.shown.startswith("pypredict: ")
    assert done.returncode == (1 if refused else 0), done.stdout
    assert command.shown in " ".join(done.stdout.split())


def fill(code: str) -> str:
    """Put values in place of the words in capitals."""
    values = VALUES | {"FILE": next((file for head, file in FILES.items() if code.startswith(head)), "")}
    return re.sub(r"\b[A-Z_]{3,}\b", lambda word: values[word[0]], code)


def tasks() -> list[str]:
    """List the commands of README's table of tasks, with values for the words in capitals."""
    table = page("README.md").split("\n## Tasks\n")[1].split("\n## ")[0]
    found = []
    for code in re.findall(r"`((?:pypredict|pyml) [^`]+)`", table):
        if not code.startswith(tuple(NOT_RUN)):
            found.append(fill(code))
    return found


@pytest.mark.parametrize("command", tasks())
def test_a_task_of_readme_is_done_by_its_command(directory: Path, database: Database, command: str) -> None:
    endless = " --until-empty" if command.startswith("pypredict run") and "--until-empty" not in command else ""
    done = run(directory, database, command + endless)
    assert done.returncode == 0, done.stdout


def test_readme_has_many_tasks() -> None:
    assert len(tasks()) > 15
