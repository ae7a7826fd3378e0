"""Compare published runs: the content of the table, the HTML file and the plot."""

import json
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

from bundle.history import Epoch
from bundle.manifest import Manifest, read_manifest
from bundle.publish import point, publish, staging
from pyml import PymlError
from pyml.cli import app
from pyml.evaluation.history import write_history
from pyml.reports.compare import COLUMNS, Cell, Comparison, compare_runs, read_runs
from pyml.reports.compare_report import caption, draw_curves, make_tables, write_html

RISING = [{"epoch": n, "seconds": 2.0, "loss": 1 / n, "val_loss": 1.5 / n, "accuracy": 1 - 0.5 / n} for n in (1, 2, 4)]


def run(models: Path, bundle_id: str, epochs: list[Epoch] | None = None, age: int = 0, **changes: Any) -> None:
    """Publish a bundle that is `age` days old, with these epochs, and with these changes in its manifest."""
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
    """Publish three runs on toys (the oldest is the baseline) and one on birds."""
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


def test_runs_are_compared_only_within_a_dataset(models: Path) -> None:
    names = [(one.dataset, [run.name for run in one.runs]) for one in compare_runs(models)]
    assert names == [("birds", ["birds-1"]), ("toys", ["alpha-1", "bravo-1", "bravo-2"])]


def test_cells_have_differences_to_baseline_and_first_epoch(models: Path) -> None:
    _, toys = compare_runs(models)
    found = cells(toys, "bravo-1")
    assert found["test accuracy"] == Cell(0.75, 0.25, None)
    assert found["test AUROC"] == Cell(0.5, -0.25, None)
    assert found["loss"] == Cell(0.125, -0.125, 0.125 - 0.5)
    assert found["val_loss"] == Cell(0.375, 0.0, 0.375 - 1.5)
    assert found["accuracy"] == Cell(0.875, 0.0, 0.375)
    assert found["val_accuracy"] == Cell(None, None, None)
    assert found["parameters"] == Cell(900, -100, None)
    assert found["total seconds"] == Cell(9.0, 3.0, None)


def test_the_baseline_has_no_difference_to_itself(models: Path) -> None:
    _, toys = compare_runs(models)
    assert {cell.to_baseline for cell in cells(toys, "alpha-1").values()} == {None}
    assert cells(toys, "alpha-1")["loss"].to_first == -0.75


@pytest.mark.parametrize(("name", "chosen"), [("bravo-1", "bravo-1"), ("bravo", "bravo-2"), ("alpha", "alpha-1")])
def test_the_baseline_is_found_by_id_or_experiment_name(models: Path, name: str, chosen: str) -> None:
    [toys] = compare_runs(models, name)
    assert toys.baseline.name == chosen
    assert len(toys.runs) == 3


def test_the_error_for_an_unknown_baseline_lists_the_runs(models: Path) -> None:
    with pytest.raises(PymlError, match=r"^no published run is called zulu; there are alpha-1, bravo-1, .*$"):
        compare_runs(models, "zulu")


def test_an_empty_models_volume_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match="holds no published run to compare; pyml train makes one"):
        compare_runs(tmp_path)


def test_an_unreadable_bundle_is_skipped_with_a_warning(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    (models / "bundles/alpha-1/manifest.json").write_text("{")
    (models / "bundles/bravo-1/history.json").unlink()
    (models / "bundles/.tmp-x").mkdir()
    assert [run.name for run in read_runs(models)] == ["bravo-2", "birds-1"]
    skipped = "\n".join(record.getMessage() for record in caplog.records)
    assert "alpha-1/manifest.json is not a valid manifest" in skipped
    assert "bravo-1/history.json cannot be read" in skipped


def text_of(models: Path, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for comparison in compare_runs(models):
        console.print(*make_tables(comparison, width), sep="\n")
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120, 240])
def test_the_table_shows_complete_values_at_any_width(models: Path, width: int) -> None:
    text = text_of(models, width)
    titles = [column.title for column in COLUMNS]
    for value in [*titles, "Δ +0.2500", "↦ -0.3750", "Δ -100"]:
        assert value in text
    assert max(map(len, text.splitlines())) <= width


def test_the_table_fits_80_columns_with_long_names(tmp_path: Path) -> None:
    name = "a_very_long_experiment_name-learning_rate_0.0001-units_150-batch_size_64-seed"
    run(tmp_path, f"{name}-1", RISING)
    run(tmp_path, f"{name}-2", RISING)
    text = text_of(tmp_path, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("0.8750") >= 2  # the accuracy of the last epoch
    assert f"{name}-2" in re.sub(r"[^\w.-]", "", text)


def test_a_run_with_other_arrays_is_marked(models: Path) -> None:
    assert "bravo-2 *" in text_of(models, 240)
    assert "* other arrays than the baseline (" in caption(compare_runs(models))
    assert "* other" not in caption(compare_runs(models, "birds"))


def test_a_run_that_is_not_proposed_shows_the_reason(models: Path) -> None:
    assert "not proposed: its accuracy" in text_of(models, 240)


def test_the_proposed_run_is_marked(models: Path) -> None:
    assert [run.name for one in compare_runs(models) for run in one.runs if run.remarks == ["proposed"]] == ["bravo-1"]


class Page(HTMLParser):
    """The tags of a page, and the URLs that a browser would load."""

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
    assert re.search(r'class="better">Δ -0.1250', text)  # a lower loss
    assert re.search(r'class="worse">Δ -0.2500', text)  # a lower AUROC


def test_an_unwritable_report_path_is_refused_in_one_sentence(models: Path, tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"cannot be written \(Is a directory\); name a file"):
        write_html(compare_runs(models), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PymlError, match=r"cannot be written \(.*\); name a file"):
        draw_curves(compare_runs(models), tmp_path / "file/curves.png")


def test_the_same_runs_give_the_same_html(models: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_html(compare_runs(models), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_plot_has_one_row_per_dataset(models: Path, tmp_path: Path) -> None:
    draw_curves(compare_runs(models, "birds"), tmp_path / "one.png")
    draw_curves(compare_runs(models), tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.size == (one.width, 2 * one.height)


@pytest.mark.parametrize("epochs", [[], RISING[:1], [{"epoch": 1, "seconds": 1.0, "loss": 0.0}]])
def test_short_and_incomplete_histories_are_shown(tmp_path: Path, epochs: list[Epoch]) -> None:
    run(tmp_path, "short", epochs)
    write_html(compare_runs(tmp_path), tmp_path / "page.html")
    assert "short" in text_of(tmp_path, 100)


def test_compare_prints_the_table_and_writes_both_files(models: Path, tmp_path: Path) -> None:
    arguments = ["compare", "--models", str(models), "--baseline", "bravo"]
    files = ["--html", str(tmp_path / "c[v1].html"), "--png", str(tmp_path / "c.png")]
    done = CliRunner().invoke(app, [*arguments, *files])
    assert done.exit_code == 0, done.output
    assert f"written: {tmp_path}/c[v1].html" in done.output
    assert "toys: 3 runs, baseline bravo-2" in done.output
    assert (tmp_path / "c[v1].html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_compare_json_is_one_document(models: Path) -> None:
    done = CliRunner().invoke(app, ["compare", "--models", str(models), "--baseline", "bravo", "--json"])
    assert done.exit_code == 0, done.output
    (document,) = json.loads(done.stdout)
    assert (document["dataset"], document["baseline"]) == ("toys", "bravo-2")
    (comparison,) = compare_runs(models, "bravo")
    for shown, run in zip(document["runs"], comparison.runs, strict=True):
        assert (shown["bundle_id"], shown["remarks"]) == (run.name, run.remarks)
        assert datetime.fromisoformat(shown["created_at"]) == run.manifest.created_at
        assert shown["metrics"]["test accuracy"]["value"] == run.manifest.metrics.accuracy
    assert document["runs"][0]["metrics"]["test accuracy"]["to_baseline"] is None


def test_a_logarithmic_axis_has_plain_numbers(tmp_path: Path) -> None:
    run(tmp_path, "alpha-1", [{**RISING[0], "loss": loss, "epoch": n} for n, loss in ((1, 2.0), (2, 0.002))])
    write_html(compare_runs(tmp_path), tmp_path / "comparison.html")
    text = (tmp_path / "comparison.html").read_text()
    assert "0.05" in text
    assert "mathdefault" not in text


def test_html_shows_control_characters_escaped(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyml.reports.compare.objections", lambda *_: ["\x1b]0;owned\x07\n<b>"])
    write_html(compare_runs(models), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert r"\x1b]0;owned\x07\n&lt;b&gt;" in page
    assert "\x1b" not in page
    assert "<svg" in page
