"""Published runs side by side: what stands in the table, in the HTML and in the picture."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.bundles import manifest_for
from typer.testing import CliRunner

from bundle.manifest import Manifest, read_manifest
from bundle.publish import point, publish, staging
from pyml import PymlError
from pyml.cli import app
from pyml.evaluation.history import Epoch, write_history
from pyml.reports.compare import COLUMNS, Cell, Comparison, compare_runs, read_runs
from pyml.reports.compare_report import caption, draw_curves, make_tables, write_html

RISING = [{"epoch": n, "seconds": 2.0, "loss": 1 / n, "val_loss": 1.5 / n, "accuracy": 1 - 0.5 / n} for n in (1, 2, 4)]


def run(models: Path, bundle_id: str, epochs: list[Epoch] | None = None, age: int = 0, **changes: Any) -> None:
    """Publish a bundle that is `age` days old, with these epochs and these figures in its manifest."""
    x = np.zeros((100, 4), np.uint8)
    manifest = manifest_for(bundle_id, x, np.zeros(100), dataset=changes.pop("dataset", "toys"))
    metrics = {**manifest.metrics.model_dump(), **changes.pop("metrics", {})}
    created = datetime(2026, 6, 1, tzinfo=UTC) - timedelta(days=age)
    document = {**manifest.model_dump(), "name": bundle_id[:5], "created_at": created, "metrics": metrics, **changes}
    with staging(models) as staged:
        (staged / "model.h5").write_bytes(b"model")
        write_history(staged, RISING if epochs is None else epochs)
        publish(staged, models, Manifest.model_validate(document))


def cells(comparison: Comparison, name: str) -> dict[str, Cell]:
    [found] = [run for run in comparison.runs if run.name == name]
    return dict(zip((column.title for column in COLUMNS), comparison.cells(found), strict=True))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three runs on toys, the oldest of which is the baseline, and one on birds."""
    run(tmp_path, "alpha-1", age=3, metrics={"accuracy": 0.5, "auroc": 0.75}, parameters=1000, train_seconds=6.0)
    better = [{**epoch, "loss": epoch["loss"] / 2} for epoch in RISING]
    run(tmp_path, "bravo-1", better, age=2, metrics={"accuracy": 0.75, "auroc": 0.5}, parameters=900, train_seconds=9.0)
    run(
        tmp_path,
        "bravo-2",
        age=1,
        data_sha256="1" * 64,
        experiment={"promote_if": {"accuracy": 0.9}},
        metrics={"accuracy": 0.3},
    )
    point(tmp_path, read_manifest(tmp_path / "bundles/bravo-1/manifest.json"))
    run(tmp_path, "birds-1", dataset="birds")
    return tmp_path


def test_runs_are_compared_with_those_of_their_data_set_only(models: Path) -> None:
    names = [(one.dataset, [run.name for run in one.runs]) for one in compare_runs(models)]
    assert names == [("birds", ["birds-1"]), ("toys", ["alpha-1", "bravo-1", "bravo-2"])]


def test_each_figure_has_its_distance_to_the_baseline_and_to_the_first_epoch(models: Path) -> None:
    _, toys = compare_runs(models)
    figures = cells(toys, "bravo-1")
    assert figures["test accuracy"] == Cell(0.75, 0.25, None)
    assert figures["test AUROC"] == Cell(0.5, -0.25, None)
    assert figures["loss"] == Cell(0.125, -0.125, 0.125 - 0.5)
    assert figures["val_loss"] == Cell(0.375, 0.0, 0.375 - 1.5)
    assert figures["accuracy"] == Cell(0.875, 0.0, 0.375)
    assert figures["val_accuracy"] == Cell(None, None, None)
    assert figures["parameters"] == Cell(900, -100, None)
    assert figures["total seconds"] == Cell(9.0, 3.0, None)


def test_the_baseline_has_no_distance_to_itself(models: Path) -> None:
    _, toys = compare_runs(models)
    assert {cell.to_baseline for cell in cells(toys, "alpha-1").values()} == {None}
    assert cells(toys, "alpha-1")["loss"].to_first == -0.75


@pytest.mark.parametrize(("name", "chosen"), [("bravo-1", "bravo-1"), ("bravo", "bravo-2"), ("alpha", "alpha-1")])
def test_a_baseline_is_named_by_its_id_or_by_its_experiment(models: Path, name: str, chosen: str) -> None:
    [toys] = compare_runs(models, name)
    assert toys.baseline.name == chosen
    assert len(toys.runs) == 3


def test_an_unknown_baseline_is_one_sentence_with_the_known_ones(models: Path) -> None:
    with pytest.raises(PymlError, match=r"^no published run is called zulu; there are alpha-1, bravo-1, .*$"):
        compare_runs(models, "zulu")


def test_nothing_published_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match="holds no published run to compare; pyml train makes one"):
        compare_runs(tmp_path)


def test_a_bundle_that_cannot_be_read_is_named_and_left_out(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    (models / "bundles/alpha-1/manifest.json").write_text("{")
    (models / "bundles/bravo-1/history.json").unlink()
    (models / "bundles/.tmp-x").mkdir()
    assert [run.name for run in read_runs(models)] == ["bravo-2", "birds-1"]
    left_out = "\n".join(record.getMessage() for record in caplog.records)
    assert "alpha-1/manifest.json is not a valid manifest" in left_out
    assert "bravo-1/history.json cannot be read" in left_out


def text_of(models: Path, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for comparison in compare_runs(models):
        console.print(*make_tables(comparison, width), sep="\n")
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120, 240])
def test_the_table_shows_every_figure_whole_at_any_width(models: Path, width: int) -> None:
    text = text_of(models, width)
    for whole in (*(column.title for column in COLUMNS), "Δ +0.2500", "↦ -0.3750", "Δ -100"):
        assert whole in text
    assert max(map(len, text.splitlines())) <= width


def test_a_run_on_other_arrays_is_marked_and_the_mark_explained(models: Path) -> None:
    assert "bravo-2 *" in text_of(models, 240)
    assert "* other arrays than the baseline's" in caption(compare_runs(models))
    assert "* other" not in caption(compare_runs(models, "birds"))


def test_a_run_that_is_not_to_be_proposed_says_why(models: Path) -> None:
    assert "not proposed: its accuracy" in text_of(models, 240)


def test_the_run_that_is_proposed_says_so(models: Path) -> None:
    assert [run.name for one in compare_runs(models) for run in one.runs if run.remarks == ["proposed"]] == ["bravo-1"]


class Page(HTMLParser):
    """What a browser would load, and the classes of the cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "data") and value and value[0] != "#"]


def test_the_html_needs_no_other_file_and_no_script(models: Path, tmp_path: Path) -> None:
    write_html(compare_runs(models), tmp_path / "out/page.html")
    text = (tmp_path / "out/page.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert page.tags.count("svg") == 2
    assert "url(http" not in text
    for shown in ("alpha-1", "birds-1", "Δ +0.2500", "bravo-2 *", "not proposed: its accuracy 0.3 is below 0.9"):
        assert shown in text
    assert re.search(r'class="better">Δ -0.1250', text)  # less loss
    assert re.search(r'class="worse">Δ -0.2500', text)  # less AUROC


def test_a_place_that_cannot_be_written_is_one_sentence(models: Path, tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"cannot be written \(Is a directory\); name a file"):
        write_html(compare_runs(models), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PymlError, match=r"cannot be written \(.*\); name a file"):
        draw_curves(compare_runs(models), tmp_path / "file/curves.png")


def test_the_same_runs_give_the_same_html(models: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_html(compare_runs(models), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_picture_grows_with_the_datasets(models: Path, tmp_path: Path) -> None:
    draw_curves(compare_runs(models, "birds"), tmp_path / "one.png")
    draw_curves(compare_runs(models), tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.size == (one.width, 2 * one.height)


@pytest.mark.parametrize("epochs", [[], RISING[:1], [{"epoch": 1, "seconds": 1.0, "loss": 0.0}]])
def test_short_and_odd_histories_are_shown(tmp_path: Path, epochs: list[Epoch]) -> None:
    run(tmp_path, "short", epochs)
    write_html(compare_runs(tmp_path), tmp_path / "page.html")
    assert "short" in text_of(tmp_path, 100)


def test_the_verb_prints_the_table_and_writes_both_files(models: Path, tmp_path: Path) -> None:
    arguments = ["compare", "--models", str(models), "--baseline", "bravo"]
    files = ["--html", str(tmp_path / "c.html"), "--png", str(tmp_path / "c.png")]
    done = CliRunner().invoke(app, [*arguments, *files])
    assert done.exit_code == 0, done.output
    assert "toys: 3 runs, baseline bravo-2" in done.output
    assert (tmp_path / "c.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_logarithmic_axis_has_plain_numbers(tmp_path: Path) -> None:
    run(tmp_path, "alpha-1", [{**RISING[0], "loss": loss, "epoch": n} for n, loss in ((1, 2.0), (2, 0.002))])
    write_html(compare_runs(tmp_path), tmp_path / "comparison.html")
    text = (tmp_path / "comparison.html").read_text()
    assert "0.05" in text
    assert "mathdefault" not in text
