"""The report in a real browser: axe-core finds no violation, nothing is loaded, and no page is wider than a phone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from conftest import REPO
from support.bundles import arrays_and_labels, forge, publish_bundle, publish_images, publish_texts
from support.workers import load, worker_for

from pypredict.report_data import read_report
from pypredict.report_html import write_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = REPO / ".local/browser/node_modules/axe-core/axe.min.js"
HISTORY = b'[{"epoch": 1, "loss": 2, "val_loss": 1}, {"epoch": 2, "loss": 1, "val_loss": 0.5}]'
KINDS = [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]


@pytest.fixture
def report(engine: sa.Engine, tmp_path: Path) -> Path:
    """A report of images, texts and arrays: two models, drift, learning curves, and names of 255 letters."""
    publish_images(tmp_path)
    publish_texts(tmp_path)
    bundle = publish_bundle(tmp_path, "first", n=300, classes=("a" * 255, "<b>", "c & d"))
    forge(bundle.path, "history.json", HISTORY)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, arrays_and_labels(60, seed=1)[0])
    publish_bundle(tmp_path, "second", n=300, classes=bundle.manifest.classes, weights=b"other", promote=True)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        write_html(read_report(connection, tmp_path), tmp_path / "report.html")
    return tmp_path / "report.html"


def open_page(browser: "Browser", report: Path, scheme: Any, width: int) -> "Page":
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page.goto(report.as_uri())
    return page


@pytest.mark.parametrize(("scheme", "width"), KINDS)
def test_axe_finds_no_violation(browser: "Browser", report: Path, scheme: str, width: int) -> None:
    page = open_page(browser, report, scheme, width)
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


def test_axe_finds_a_violation_that_is_there(browser: "Browser", report: Path) -> None:
    report.write_text(report.read_text(encoding="utf-8").replace(" alt=", " data-alt="), encoding="utf-8")
    page = open_page(browser, report, "light", 1280)
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    assert [one["id"] for one in page.evaluate("axe.run()")["violations"]] == ["image-alt"]


def test_a_phone_scrolls_tables_and_not_the_page(browser: "Browser", report: Path) -> None:
    page = open_page(browser, report, "light", 390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_page_loads_nothing_and_runs_no_script(browser: "Browser", report: Path) -> None:
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    assert [url for url in requests if not url.startswith("data:image/png")] == [report.as_uri()]
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_tab_reaches_each_table_and_detail(browser: "Browser", report: Path) -> None:
    page = open_page(browser, report, "light", 1280)
    wanted = page.locator("a, summary, [tabindex='0']").filter(visible=True).count()
    reached = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached) == wanted > 10


def test_print_uses_black_on_white_and_shows_the_details(browser: "Browser", report: Path) -> None:
    page = open_page(browser, report, "dark", 1280)
    page.emulate_media(media="print", color_scheme="dark")
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert page.locator("nav").is_hidden()
    heights = page.evaluate(
        "[...document.querySelectorAll('details table')].map(one => one.checkVisibility({"
        "contentVisibilityAuto: true}) && one.getBoundingClientRect().height)"
    )
    assert len(heights) > 1
    assert all(height > 0 for height in heights)
