"""docs/tutorial.md: its commands run in their order, and do what the page says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, Cluster, Database, new_database
from PIL import Image
from support.page_commands import commands

BIN = Path(sys.executable).parent
PAGE = (REPO / "docs/tutorial.md").read_text(encoding="utf-8")
COMMANDS = [command.text for command in commands(REPO / "docs/tutorial.md")]
FIRST_RUN = [  # what `make run` does on its embedded server
    "pyml train experiments/digits_cnn.json",
    "pypredict load models/current/digits.json",
    "pypredict run --until-empty",
]


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    with new_database(cluster) as made:
        yield made


def draw_pictures(directory: Path) -> None:
    """Make two classes of pictures, reddish and bluish noise, and some new ones."""
    random = np.random.default_rng(0)
    for number in range(100):
        pixels = random.integers(0, 120, (20, 20, 3), np.uint8)
        pixels[..., 0 if number % 2 else 2] += 130
        path = directory / "pictures" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    shutil.copytree(directory / "pictures/cat", directory / "new")
    shutil.copy(directory / "pictures/dog/0.png", directory / "new.png")


def test_the_tutorial_is_run_as_it_is_written(database: Database, tmp_path: Path) -> None:
    shutil.copytree(REPO / "experiments", tmp_path / "experiments")
    (tmp_path / ".local").mkdir()
    (mine,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "experiments/mine.json").write_text(mine)
    draw_pictures(tmp_path)
    targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "WANDB", "PYML", "PYPREDICT"))}
    said: dict[str, str] = {}
    for command in [*FIRST_RUN, *COMMANDS]:
        program, *arguments = shlex.split(command)
        if program == "make":
            assert arguments[0] in targets
        elif program != "export":
            done = subprocess.run(
                [BIN / program, *arguments],
                cwd=tmp_path,
                env=environment | {"DATABASE_URL": database.url("pypredict"), "PYML_DATA_DIR": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            said[command] = done.stdout + done.stderr
    assert len(said) > 15
    assert "is the best of 4 experiments on the validation set" in said["pyml train experiments/digits_grid.json"]
    assert "rolled back" not in said["pypredict models history"]
    assert "available" in said["pypredict models list"]
    assert "pictures" in said["pyml train experiments/mine.json"]
    assert (tmp_path / ".local/report.html").stat().st_size > 20_000
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert len(rows) > 50
    assert json.loads((tmp_path / "models/current/pictures.json").read_text())["bundle_id"].startswith("mine-")
