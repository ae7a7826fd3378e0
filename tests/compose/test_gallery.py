"""pgAdmin still shows what the picture of README shows. It runs before other tests load more inputs."""

import struct
from pathlib import Path

import pytest
from compose.browser import CHROMIUM, open_browser
from compose.stack import Stack
from support.shown import stored, without_numbers


def test_pgadmin_shows_what_the_picture_of_the_gallery_shows(stack: Stack, shots: Path) -> None:
    if not CHROMIUM.exists():
        pytest.fail(f"NOT TESTED: {CHROMIUM} is missing; apt-get install chromium")
    stack.wait_predicted()
    with open_browser(shots) as window:
        address = f"http://127.0.0.1:{stack.values['PGADMIN_PORT']}/"
        window.log_in(address, "admin@example.com", stack.values["PGADMIN_PASSWORD"])
        png, texts = window.show_gallery((stack.directory / "db/pgadmin/queries/mistakes.sql").read_text())
    (shots / "gallery.png").write_bytes(png)
    size, wanted = stored("gallery")
    assert struct.unpack(">II", png[16:24]) == tuple(size)  # a PNG's width and height
    assert without_numbers(texts) == without_numbers(wanted)
