"""pgAdmin in a real browser: log in, open the tree, view data, run a statement."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from support.shown import visible_text

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
GALLERY = (1400, 700)  # width and height of the picture, in pixels
SECONDS = 1000  # in milliseconds, Playwright's unit


@contextmanager
def open_browser(shots: Path) -> Iterator["PgAdmin"]:
    """Open a window; screenshots are written to `shots`."""
    from playwright.sync_api import sync_playwright

    shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield PgAdmin(browser.new_page(viewport={"width": 1500, "height": 900}), shots)
        finally:
            browser.close()


class PgAdmin:
    """One window, which takes screenshots."""

    def __init__(self, page: "Page", shots: Path) -> None:
        self.page = page
        self.shots = shots
        self.statements = 0
        self.total_rows = 0  # as the last grid says

    def log_in(self, url: str, email: str, password: str) -> None:
        self.page.goto(url)
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", password)
        self.shoot("1-login")
        self.page.click('button[name=internal_button], button:has-text("Login")')
        self.page.wait_for_selector(".file-entry", timeout=60 * SECONDS)

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=self.shots / f"{name}.png")

    def tree(self) -> list[tuple[int, str]]:
        """Return depth and label of every visible entry of the tree, from top to bottom."""
        return [
            (depth, label)
            for depth, label in self.page.locator(".file-entry").evaluate_all(
                "rows => rows.map(row => [Number(row.dataset.depth), row.querySelector('.file-name').innerText.trim()])"
            )
        ]

    def unfold(self, *path: str) -> list[str]:
        """Open the tree along a path of labels; return the labels one level below its end."""
        depth, at = 0, -1
        for label in path:
            depth += 1
            self._settle()  # an only child opens by itself
            at = self._find(label, depth, at)
            if not self._has_children(at):
                self.page.locator(".file-entry").nth(at).locator(".directory-toggle").click()
                self._until(partial(self._has_children, at), f"{label} opens")
        self._settle()
        below = []
        for other, label in self.tree()[at + 1 :]:
            if other <= depth:
                break
            below += [label] if other == depth + 1 else []
        return below

    def view_data(self, view: str) -> tuple[list[str], list[str]]:
        """Open View Data, All Rows for an entry of the tree; return the columns and the first row.

        Raises AssertionError with pgAdmin's own message when it shows an error.
        """
        with self._tool(view, "View/Edit Data", "All Rows") as frame:
            done = frame.get_by_text("Query complete")
            self._until(lambda: done.count() or self.problems(frame), f"the rows of {view}", seconds=120)
            self.page.wait_for_timeout(SECONDS)
            self.shoot(f"view-{view}")
            trouble = self.problems(frame) or self._errors(frame)
            assert not trouble, f"{view}: {trouble}"
            self.total_rows = int(frame.get_by_text("Total rows:").inner_text().removeprefix("Total rows:"))
            columns = [text.split("\n")[0] for text in frame.locator("[role=columnheader]").all_inner_texts()]
            cells = frame.locator("[role=row][aria-rowindex='2'] [role=gridcell]").all_inner_texts()
        return columns[1:], cells[1:]  # the first column has the row numbers

    def run(self, view: str, statement: str) -> str:
        """Run a statement in the query tool of an entry of the tree; return the errors that pgAdmin shows."""
        with self._tool(view, "Query Tool") as frame:
            self._execute(frame, statement)
            return self._errors(frame)

    def cell(self, view: str, statement: str) -> str:
        """Run a statement in the query tool; open the editor of its first cell and return the text there."""
        with self._tool(view, "Query Tool") as frame:
            self._execute(frame, statement)
            frame.locator("[role=row][aria-rowindex='2'] [role=gridcell]").nth(1).dblclick()
            editor = frame.locator("textarea.Editors-textarea")
            editor.evaluate(
                "area => { area.style.width = '500px'; area.style.height = '420px'; area.setSelectionRange(0, 0) }"
            )
            self.shoot(f"cell-{self.statements}")
            text: str = editor.input_value()
        return text

    def show_gallery(self, statement: str) -> tuple[bytes, list[str]]:
        """Run the gallery's example query and open the drawing of the first row; return a PNG and its visible text.

        The columns are made as wide as their texts, the query's panel as low. pgAdmin keeps the panels for the user.
        """
        self.unfold("Servers", "ML pipeline", "Databases", "ml", "Schemas", "ml", "Views")
        with self._tool("gallery", "Query Tool") as frame:
            self._execute(frame, statement)
            notes = frame.locator(".dock-tab", has_text="Scratch Pad").locator("button")
            if notes.count():
                notes.first.click()
            divider = frame.locator(".dock-divider").last.bounding_box()
            assert divider is not None
            self._drag(divider["x"] + 100, divider["y"] + divider["height"] / 2, to_x=divider["x"] + 100, to_y=240)
            self.page.set_viewport_size({"width": 3200, "height": GALLERY[1]})  # the column `input` is wide
            self._resize_column(frame, "name", 100)
            self._resize_column(frame, "input", 330)
            self.page.set_viewport_size({"width": GALLERY[0], "height": GALLERY[1]})
            columns = [text.split("\n")[0] for text in frame.locator("[role=columnheader]").all_inner_texts()]
            row = frame.locator("[role=row][aria-rowindex='2'] [role=gridcell]")
            row.nth(columns.index("input")).dblclick()
            editor = frame.locator("textarea.Editors-textarea")
            editor.evaluate(
                "area => { area.style.width = '460px'; area.style.height = '320px'; area.setSelectionRange(0, 0) }"
            )
            for place in (self.page, frame):
                place.get_by_text("Successfully run").wait_for(state="hidden", timeout=60 * SECONDS)
            return self.page.screenshot(), visible_text(self.page, frame)

    def _resize_column(self, frame: "Frame", name: str, width: int) -> None:
        """Drag the right edge of a column."""
        header = frame.locator("[role=columnheader]").filter(has_text=re.compile(f"^{name}")).first
        box: dict[str, float] = {}

        def still() -> bool:
            before = box.copy()
            box.update(header.bounding_box() or {})
            return box == before

        self._until(still, f"the column {name} does not move")
        at = box["y"] + box["height"] / 2
        self._drag(box["x"] + box["width"] - 2, at, to_x=box["x"] + width, to_y=at)
        self._until(lambda: abs((header.bounding_box() or {})["width"] - width) < 10, f"{name} is {width} pixels wide")

    def _drag(self, x: float, y: float, *, to_x: float, to_y: float) -> None:
        mouse = self.page.mouse
        mouse.move(x, y)
        mouse.down()
        mouse.move((x + to_x) / 2, (y + to_y) / 2)
        mouse.move(to_x, to_y)
        mouse.up()

    def open_example(self, view: str, storage: str, name: str) -> str:
        """Open a file of a shared storage in the query tool; return the text in the query's editor."""
        with self._tool(view, "Query Tool") as frame:
            frame.get_by_label("Open File").first.click()
            frame.get_by_label("Home").wait_for()
            if frame.get_by_label("My Storage").count():  # else the storage of the last visit is open
                frame.get_by_label("My Storage").click()
                frame.get_by_text(storage, exact=True).click()
            frame.get_by_text(name, exact=True).dblclick()
            editor = frame.locator(".cm-content").first
            self._until(editor.inner_text, f"{name} is open")
            self.shoot(f"example-{name}")
            text: str = editor.inner_text()
        return text

    def _execute(self, frame: "Frame", statement: str) -> None:
        """Run a statement in an open query tool, until its answer is shown."""
        frame.locator(".cm-content").first.click()
        self.page.keyboard.insert_text(statement)

        def answered() -> bool:
            if frame.get_by_text("Query complete").count():
                return True
            if frame.get_by_text("Execute a query to get output").count():
                self.page.keyboard.press("F5")  # again, if the tool was not connected at first
            return False

        self._until(answered, "an answer")
        self.page.wait_for_timeout(SECONDS)
        self.statements += 1
        self.shoot(f"statement-{self.statements}")

    @contextmanager
    def _tool(self, label: str, *menu: str) -> Iterator["Frame"]:
        """Open a tool by the context menu of an entry; close its tab at the end."""
        before = self._tools()
        at = next(i for i, (_, entry) in enumerate(self.tree()) if entry == label)
        row = self.page.locator(".file-entry").nth(at)
        row.click()
        row.click(button="right")
        for item in menu[:-1]:
            self.page.get_by_text(item, exact=True).last.hover()
        self.page.get_by_role("menuitem").filter(has_text=menu[-1]).last.click(timeout=10 * SECONDS)
        self._until(lambda: self._tools().keys() - before.keys(), f"{menu[-1]} opens")
        (number,) = self._tools().keys() - before.keys()
        yield self._tools()[number]
        self.page.locator(f"[data-node-key=id-query-tool_{number}]").get_by_label("Close").click()

    def _tools(self) -> dict[str, "Frame"]:
        """Map the numbers of the open tools to their frames."""
        found = ((re.search(r"/sqleditor/panel/(\d+)", frame.url), frame) for frame in self.page.frames)
        return {match[1]: frame for match, frame in found if match}

    def problems(self, *frames: "Frame") -> str:
        """Return pgAdmin's own error messages."""
        complaints = ".MuiDialog-container, [role=alert], .MuiAlert-message"
        places = (self.page, *frames)
        return " / ".join(text for place in places for text in place.locator(complaints).all_inner_texts() if text)

    def _errors(self, frame: "Frame") -> str:
        messages = [box.input_value() for box in frame.locator("textarea[readonly]").all()]
        return "\n".join(message for message in messages if "ERROR:" in message)

    def _settle(self) -> None:
        """Wait until the tree does not change for 1.5 s."""
        before = None
        while before != (before := self.tree()):
            self.page.wait_for_timeout(1.5 * SECONDS)

    def _has_children(self, at: int) -> bool:
        rows = self.tree()[at : at + 2]
        return len(rows) == 2 and rows[1][0] > rows[0][0]

    def _find(self, label: str, depth: int, after: int) -> int:
        def found() -> list[int]:
            return [i for i, entry in enumerate(self.tree()) if i > after and entry == (depth, label)]

        self._until(found, f"{label!r} is in the tree below {self.tree()[max(after, 0)]}")
        return found()[0]

    def _until(self, condition: Callable[[], object], what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.shoot("timeout")
                raise AssertionError(f"waited {seconds} s until {what}; pgAdmin says: {self.problems() or 'nothing'}")
            self.page.wait_for_timeout(250)
