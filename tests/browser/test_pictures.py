"""The pictures of README: small, and still what the pages show. The one of pgAdmin is tested in tests/compose."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import REPO, Cluster, new_database
from PIL import Image
from support.pictures import MAX_BYTES, PAGES, SIZES, take_page
from support.shown import PICTURES, stored, without_numbers

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BIN = Path(sys.executable).parent
COMMANDS = (  # those of `make pictures`
    ("pyml", "train", REPO / "experiments/digits_cnn.json"),
    ("pypredict", "load", "models/current/digits.json"),
    ("pypredict", "run", "--until-empty"),
    ("pypredict", "report", "--html", "report.html", "--replay", "all"),
    ("pyml", "train", REPO / "experiments/digits_grid.json"),
    ("pyml", "compare", "--baseline", "digits_cnn", "--html", "comparison.html"),
)


@pytest.fixture(scope="module")
def pages(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a directory with the report and the comparison of a new run."""
    directory = tmp_path_factory.mktemp("pages")
    with new_database(cluster) as database:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "WANDB", "PYML", "PYPREDICT"))}
        environment = kept | {"DATABASE_URL": database.url("pypredict")}
        for program, *arguments in COMMANDS:
            command = [BIN / str(program), *arguments]
            done = subprocess.run(
                command, cwd=directory, env=environment, capture_output=True, text=True, timeout=250, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        yield directory


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_its_picture_shows(browser: "Browser", pages: Path, name: str) -> None:
    page, width, height = PAGES[name]
    png, texts = take_page(browser, pages / page, width, height)
    size, wanted = stored(name)
    assert list(Image.open(BytesIO(png)).size) == size
    assert without_numbers(texts) == without_numbers(wanted)
    assert len(texts) > 30


def test_readme_shows_each_picture() -> None:
    shown = re.findall(r"!\[(.{20,})\]\(docs/pictures/(\w+)\.webp\)", (REPO / "README.md").read_text())
    assert {name for _, name in shown} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_picture_is_small_and_has_the_size_of_its_text(name: str) -> None:
    content = (PICTURES / f"{name}.webp").read_bytes()
    picture = Image.open(BytesIO(content))
    assert len(content) <= MAX_BYTES
    assert (picture.format, picture.size, list(picture.size)) == ("WEBP", SIZES[name], stored(name)[0])
