"""Take the pictures of README from the pages of `make run` and `pyml compare`: `make pictures`.

They are WebP files of at most 150 kB in docs/pictures.
"""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPO = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
MAX_BYTES = 150_000
# The name of each picture, its page, and how many pixels of it are shown.
PICTURES = {
    "report": ("report.html", 1100, 1070),
    "comparison": ("comparison.html", 1700, 1010),
}


def take_picture(browser: "Browser", page_path: Path, width: int, height: int) -> bytes:
    """Return the top of a page as a WebP file."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(page_path.as_uri())
    picture = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=80, method=6)
    return content.getvalue()


def main() -> None:
    """Write each picture."""
    from playwright.sync_api import sync_playwright

    pages = REPO / ".local"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, (page, width, height) in PICTURES.items():
            content = take_picture(browser, pages / page, width, height)
            if len(content) > MAX_BYTES:
                sys.exit(f"the picture {name} has {len(content)} bytes, at most {MAX_BYTES} are allowed")
            (REPO / f"docs/pictures/{name}.webp").write_bytes(content)
        browser.close()


if __name__ == "__main__":
    main()
