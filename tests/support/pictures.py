"""Take the pictures of README: from the pages of `make run` and `pyml compare`, and from pgAdmin in the stack.

They are WebP files of at most 150 kB in docs/pictures, each with a JSON file of its size and text (support/shown.py).
pgAdmin needs Docker. A stack of its own is started in a copy of the repository, and removed at the end.
"""

import io
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from compose.browser import CHROMIUM, GALLERY, open_browser
from compose.stack import Stack, clone
from PIL import Image

from support.shown import PICTURES, store, visible_text

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPO = Path(__file__).resolve().parents[2]
MAX_BYTES = 150_000
# The name of each picture of a page, the page, and how many pixels of it are shown.
PAGES = {
    "report": ("report.html", 1100, 1040),
    "comparison": ("comparison.html", 1700, 1010),
}
SIZES = {name: (width, height) for name, (_, width, height) in PAGES.items()} | {"gallery": GALLERY}


def take_page(browser: "Browser", path: Path, width: int, height: int) -> tuple[bytes, list[str]]:
    """Return the top of a page as a PNG, and its visible text."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(path.as_uri())
    taken = page.screenshot(), visible_text(page)
    page.close()
    return taken


def take_gallery() -> tuple[bytes, list[str]]:
    """Start the stack; return pgAdmin with a wrong prediction as a PNG, and its visible text."""
    with tempfile.TemporaryDirectory(prefix="pictures-") as directory:
        clone(REPO, Path(directory))
        stack = Stack(Path(directory), f"pictures{secrets.token_hex(4)}")
        stack.write_env(PGADMIN_PASSWORD=secrets.token_urlsafe(9))
        try:
            stack.watch_up(seconds=1800)
            stack.wait_predicted()
            with open_browser(REPO / ".local/pictures") as window:
                url = f"http://127.0.0.1:{stack.values['PGADMIN_PORT']}/"
                window.log_in(url, "admin@example.com", stack.values["PGADMIN_PASSWORD"])
                return window.show_gallery((REPO / "db/pgadmin/queries/mistakes.sql").read_text(encoding="utf-8"))
        finally:
            stack.remove()


def save(name: str, png: bytes, texts: list[str]) -> None:
    """Write a picture as WebP, and say what of its text has changed."""
    content = io.BytesIO()
    picture = Image.open(io.BytesIO(png))
    picture.save(content, "WEBP", quality=80, method=6)
    if content.tell() > MAX_BYTES:
        sys.exit(f"the picture {name} has {content.tell()} bytes, at most {MAX_BYTES} are allowed")
    (PICTURES / f"{name}.webp").write_bytes(content.getvalue())
    changes = store(name, picture.size, texts)
    print(f"{name}: {'the text has changed' if changes else 'the same size and text as before'}", *changes, sep="\n")


def main() -> None:
    """Write each picture."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, (page, width, height) in PAGES.items():
            save(name, *take_page(browser, REPO / ".local" / page, width, height))
        browser.close()
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        sys.exit("gallery: not taken, for no Docker engine answers; the stored picture is kept")
    save("gallery", *take_gallery())


if __name__ == "__main__":
    main()
