"""The docker commands of README, docs/stack.md and docs/passwords.md, as they are written, in a terminal."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from compose.stack import DAEMONS, Stack
from compose.test_exchange import write_images, write_reviews
from support.page_commands import PageCommand, commands

REPO = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/stack.md", "docs/passwords.md")
LEARN = {
    "loss": "sparse_categorical_crossentropy",
    "optimizer": {"name": "Adam", "learning_rate": 0.05},
    "epochs": 3,
    "batch_size": 8,
}
DENSE = {"layer": "Dense", "units": 2, "activation": "softmax"}
FIRST_UP = "docker compose up"  # the fixture `stack` ran it in the foreground
DOCKER = [
    command
    for page in PAGES
    for command in commands(REPO / page)
    if command.program == "docker" and command.text != FIRST_UP and not command.not_run
]


@pytest.fixture(scope="module")
def files(stack: Stack) -> None:
    """Make the files of the host that the pages name, in the clone."""
    write_images(stack.directory / "photographs", seed=1, count=30)
    write_images(stack.directory / "new", seed=9, count=5)
    write_reviews(stack.directory / "reviews.csv", range(30))
    write_reviews(stack.directory / "new.csv", range(190, 195))
    images = {"kind": "image-folder", "path": "photographs", "height": 16, "width": 16, "color": "grayscale"}
    experiment = {
        "name": "photographs",
        "data": {"name": "photographs", **images, "validation": 0.2, "test": 0.2},
        "layers": [{"layer": "Rescaling", "scale": 1 / 255}, {"layer": "Flatten"}, DENSE],
        **LEARN,
    }
    (stack.directory / "experiments/photographs.json").write_text(json.dumps(experiment))
    texts = {"kind": "text-csv", "path": "reviews.csv", "text_column": "text", "label_column": "label"}
    experiment |= {
        "name": "reviews",
        "data": {"name": "reviews", **texts, "words": 50, "length": 8, "validation": 0.2, "test": 0.2},
        "layers": [
            {"layer": "Embedding", "input_dim": 50, "output_dim": 4},
            {"layer": "GlobalAveragePooling1D"},
            DENSE,
        ],
    }
    (stack.directory / "experiments/reviews.json").write_text(json.dumps(experiment))
    mount = f"{stack.directory}/reviews.csv:/app/data/reviews.csv:ro"
    stack.compose("run", "--rm", "-T", "-v", mount, "pyml", "train", "experiments/reviews.json")


def in_terminal(stack: Stack, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as in a terminal; psql gets `\\q`."""
    shell = ("script", "--quiet", "--return", "--command", f"bash -ec {shlex.quote(command)}", "/dev/null")
    return stack.call(*shell, check=False, stdin="\\q\n", timeout=600)


def test_first_command_of_readme_makes_the_settings(tmp_path: Path) -> None:
    (copy,) = [command for command in commands(REPO / "README.md") if command.program == "cp"]
    (tmp_path / ".env.example").write_bytes((REPO / ".env.example").read_bytes())
    subprocess.run(["sh", "-ec", copy.text], cwd=tmp_path, check=True)
    assert (tmp_path / ".env").read_bytes() == (REPO / ".env.example").read_bytes()


@pytest.mark.parametrize("command", DOCKER, ids=lambda command: command.text)
def test_a_docker_command_of_a_page_works(stack: Stack, files: None, command: PageCommand) -> None:
    text = command.text.replace("NAME.json", "digits_cnn.json")
    done = in_terminal(stack, text)
    assert done.returncode == 0, done.stdout + done.stderr
    if text == "docker compose down":
        stack.up()
    stack.wait_healthy(*DAEMONS)


def test_files_that_the_pages_write_hold_what_they_promise(stack: Stack, files: None) -> None:
    assert "<svg" in (stack.directory / "report.html").read_text()
    rows = (stack.directory / "predictions.csv").read_text().splitlines()
    assert len(rows) > 360
    assert list((stack.directory / "models/bundles").glob("*/manifest.json"))
    assert len(stack.containers("pypredict")) >= 1
