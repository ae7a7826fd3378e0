"""The pictures of README: made by `make pictures`, small, and of the size that the command makes."""

import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import REPO
from PIL import Image
from support.pictures import MAX_BYTES, PICTURES, take_picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_readme_shows_each_picture() -> None:
    shown = re.findall(r"!\[(.{20,})\]\(docs/pictures/(\w+)\.webp\)", (REPO / "README.md").read_text())
    assert {name for _, name in shown} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_the_size_that_is_made_again(browser: "Browser", tmp_path: Path, name: str) -> None:
    _, width, height = PICTURES[name]
    (tmp_path / "page.html").write_text("<h1>A page</h1>")
    stored = (REPO / f"docs/pictures/{name}.webp").read_bytes()
    again = Image.open(BytesIO(take_picture(browser, tmp_path / "page.html", width, height)))
    assert len(stored) <= MAX_BYTES
    assert (Image.open(BytesIO(stored)).format, Image.open(BytesIO(stored)).size) == (again.format, again.size)
