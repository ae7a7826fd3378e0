"""`pypredict report --html`: one file from real rows, for images, texts and arrays; names cannot control the page.

Longer than 300 lines, because each part of the page has its test.
"""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from PIL import Image
from support.bundles import (
    arrays_and_labels,
    fake_predict,
    forge,
    publish_bundle,
    publish_images,
    publish_texts,
)
from support.workers import load, rows, worker_for

from bundle.verify import Bundle
from pypredict.models import Predict
from pypredict.replay import Replayed
from pypredict.report_data import read_report
from pypredict.report_html import drift_meaning, make_report, render

SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The parts of a page: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report_of(engine: sa.Engine, models: Path) -> str:
    with engine.begin() as connection:
        return render(read_report(connection, models))


def unsure(n_classes: int) -> Predict:
    """A model whose probabilities differ from input to input; it predicts what fake_predict does for three classes."""

    def predict(arrays: np.ndarray) -> np.ndarray:
        flat = arrays.reshape(len(arrays), -1).astype(np.float32)
        probabilities = np.eye(n_classes, dtype=np.float32)[flat[:, 0].astype(int) % n_classes] * 0.7
        probabilities += 0.01 + flat[:, 1:2] / 2560
        return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True), np.float32)

    return predict


def test_the_verdict_is_one_line_per_dataset(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=100)
    worker_for(engine, tmp_path).run(until_empty=True)
    ((right, accuracy),) = rows(engine, "SELECT n_correct, accuracy FROM ml.accuracy")
    text = " ".join(Page(report_of(engine, tmp_path)).text.split())
    assert (
        f"OK: model 1 (toy) serves toys; accuracy {accuracy:.4f} ({right} of 100), equal in SQL and in the manifest; "
        "integrity: no problem found; replay: not run in this report."
    ) in text


def test_a_different_accuracy_in_the_manifest_is_a_problem(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=100, n_correct=99)
    worker_for(engine, tmp_path).run(until_empty=True)
    page = Page(report_of(engine, tmp_path))
    assert "NOT the accuracy in the manifest" in page.text
    assert [one for one in page.all("li") if one.get("class") == "problem"]
    assert "OK:" not in page.text


def test_a_report_without_a_model_says_what_to_do(engine: sa.Engine, tmp_path: Path) -> None:
    assert "no model serves; train one" in Page(report_of(engine, tmp_path)).text


def test_inputs_without_a_prediction_are_counted(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)

    def predict(arrays: np.ndarray) -> np.ndarray:
        return np.where((arrays == 9).all(axis=(1, 2)), np.nan, fake_predict(arrays))

    load(engine, bundle, np.full((1, 4, 4, 1), 9, np.uint8))
    worker_for(engine, tmp_path, predict).run(until_empty=True)
    assert (
        "NO PREDICTION: 1 input could not be predicted; the reason is bad_output."
        in Page(report_of(engine, tmp_path)).text
    )


def test_metrics_in_the_page_equal_those_in_sql(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=300)
    worker_for(engine, tmp_path).run(until_empty=True)
    text = " ".join(Page(report_of(engine, tmp_path)).text.split())
    for name, precision, recall, f1 in rows(engine, 'SELECT class, "precision", recall, f1 FROM ml.class_report'):
        assert f"{name}{precision:.4f}{recall:.4f}{f1:.4f}" in text
    for n, share in rows(engine, "SELECT n, n::float / sum(n) OVER (PARTITION BY label) FROM ml.confusion"):
        assert f"{n}{share:.1%}" in text


def test_the_page_has_no_script_and_no_address(engine: sa.Engine, tmp_path: Path) -> None:
    publish_images(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    page = report_of(engine, tmp_path)
    tags = Page(page)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in tags.tags}
    assert re.findall(r"https?://|url\(|@import", page) == []
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in tags.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in tags.all("svg"))


def test_names_cannot_control_the_page(engine: sa.Engine, owner: sa.Engine, tmp_path: Path) -> None:
    classes = (SCRIPT, '"><img src=x onerror=alert(1)>', "red\x1b[31m & {{ 7 * 7 }}")
    bundle = publish_bundle(tmp_path, n=60, classes=classes)
    run = {"mode": "online", "id": "a", "url": "javascript:alert(1)", "directory": None}
    forge(bundle.path, git={"commit": SCRIPT, "dirty": True}, machine=SCRIPT, tracked_run=run)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, arrays_and_labels(20, seed=3)[0])
    worker_for(engine, tmp_path).run(until_empty=True)
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.input_name SET name = :name"), {"name": f"' {SCRIPT}\x1b[2J\u202e.png"})
        connection.execute(sa.text("UPDATE ml.chunk SET source = :source"), {"source": SCRIPT})
    html = report_of(engine, tmp_path)
    page = Page(html)
    assert page.all("script") == []
    assert [name for _, attributes in page.tags for name in attributes if name.startswith("on")] == []
    assert [one for one in page.all("a") if not str(one["href"]).startswith("#")] == []
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert f"' {SCRIPT}\\x1b[2J" in page.text
    assert "red\\x1b[31m & {{ 7 * 7 }}" in page.text


def test_images_are_shown_with_their_pixels(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_images(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    page = Page(report_of(engine, tmp_path))
    arrays = np.load(bundle.path / "test_set.npz")["x"]
    shown = page.all("img")
    assert len(shown) >= 6
    for image in shown:
        png = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(png)))
        number = int(re.findall(r"Input (\d+), ", str(image["alt"]))[0])
        ((row,),) = rows(
            engine,
            f"SELECT c.first_row + i.sample_no FROM ml.input i JOIN ml.chunk c USING (chunk_id)"
            f" WHERE i.input_id = {number}",
        )
        assert np.array_equal(pixels, arrays[row])


def test_the_most_confident_mistakes_come_first(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=200)
    worker_for(engine, tmp_path, unsure(3)).run(until_empty=True)
    page = Page(report_of(engine, tmp_path))
    shown = [int(number) for image in page.all("img") for number in re.findall(r"Input (\d+),", str(image["alt"]))]
    wrong = [one for (one,) in rows(engine, "SELECT input_id FROM ml.misclassified WHERE in_test_set LIMIT 12")]
    assert shown[:12] == wrong
    assert len(shown) == 12 + 6


def test_texts_are_shown_as_their_words(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_texts(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        report = read_report(connection, tmp_path)
    words = json.loads((bundle.path / "vocabulary.json").read_text())
    tokens = np.load(bundle.path / "test_set.npz")["x"].tolist()
    (first,) = rows(engine, "SELECT min(input_id) FROM ml.input")[0]
    examples = report.datasets[0].mistakes + report.datasets[0].right
    text = Page(render(report)).text
    assert len(examples) > 6
    for example in examples:
        kept = [token for token in tokens[example.input_id - first] if token > 1]
        assert example.shown.words == " ".join(words[n] if n < len(words) else f"<{n}>" for n in kept)
        assert example.shown.words in text


def test_plain_arrays_are_shown_as_numbers(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=40, shape=(30,), dtype="float32")
    worker_for(engine, tmp_path).run(until_empty=True)
    page = Page(report_of(engine, tmp_path))
    assert page.all("img") == []
    assert re.search(r"float32 of shape \(30,\): [\d.]+ .* and 18 more", page.text)


def test_ten_thousand_inputs_of_ten_classes_need_less_than_2_mb(engine: sa.Engine, tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(10))
    publish_bundle(tmp_path, n=10_000, shape=(96, 96, 1), classes=classes)
    worker_for(engine, tmp_path, unsure(10)).run(until_empty=True)
    page = report_of(engine, tmp_path)
    assert len(page.encode()) < 2_000_000
    assert "of 10000)" in page


def test_many_classes_show_the_most_frequent_mistakes(engine: sa.Engine, tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(200))
    publish_bundle(tmp_path, n=2_000, classes=classes)
    worker_for(engine, tmp_path, unsure(200)).run(until_empty=True)
    html = report_of(engine, tmp_path)
    assert "these are its most frequent mistakes" in html
    assert len(html.encode()) < 2_000_000


def test_a_missing_bundle_leaves_out_the_learning_curves(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path / "models", n=40)
    worker_for(engine, tmp_path / "models").run(until_empty=True)
    text = Page(report_of(engine, tmp_path)).text
    assert "There are no learning curves: there is no bundle toy in" in text
    assert "Confusion matrix" in text


def test_learning_curves_come_from_the_bundle(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, n=40)
    epochs = [{"epoch": n + 1, "loss": 1 / (n + 1), "val_loss": 0.5, "accuracy": 0.9, "seconds": 1} for n in range(300)]
    forge(bundle.path, "history.json", json.dumps(epochs).encode())
    worker_for(engine, tmp_path).run(until_empty=True)
    html = report_of(engine, tmp_path)
    assert "training from 1 to 0.003333; validation from 0.5 to 0.5" in html
    assert "50 of 300 epochs" in html


def test_a_history_that_is_too_large_or_invalid_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, n=40)
    forge(bundle.path, "history.json", b'[{"epoch": "one"}]')
    worker_for(engine, tmp_path).run(until_empty=True)
    assert "history.json is not a history" in Page(report_of(engine, tmp_path)).text
    forge(bundle.path, "history.json", b" " * (8 * 2**20 + 1))
    assert "at most 8388608 are read" in Page(report_of(engine, tmp_path)).text


def test_a_forged_bundle_cannot_make_the_page_large(engine: sa.Engine, tmp_path: Path) -> None:
    long = "x" * 2**20
    bundle = publish_bundle(tmp_path, n=40)
    more = "".join(f"part {n},0,label {n},row,{n:064x}\n" for n in range(20_000))
    forge(bundle.path, "split.csv", (bundle.path / "split.csv").read_bytes() + more.encode())
    epochs = [{"epoch": n, "loss": 1, f"metric {n} {long[:300]}": 1} for n in range(20_000)]
    forge(bundle.path, "history.json", json.dumps(epochs).encode())
    run = {"mode": "online", "id": "a", "url": long, "directory": None}
    forge(bundle.path, git={"commit": long, "dirty": True}, machine=long, tracked_run=run)
    worker_for(engine, tmp_path).run(until_empty=True)
    html = report_of(engine, tmp_path)
    assert "label 19999" not in html
    assert "50 of 20000 epochs" in html
    assert len(html.encode()) < 100_000


def two_models(engine: sa.Engine, models: Path) -> Bundle:
    """Two models of one test set; the first one is right less often."""

    def worse(arrays: np.ndarray) -> np.ndarray:
        probabilities = fake_predict(arrays)
        wrong = arrays.reshape(len(arrays), -1)[:, 1] < 64
        return np.where(wrong[:, None], np.roll(probabilities, 1, axis=1), probabilities)

    for bundle_id, predict in (("worse", worse), ("better", fake_predict)):
        bundle = publish_bundle(models, bundle_id, n=200, weights=bundle_id.encode())
        worker_for(engine, models, predict).run(until_empty=True)
    return bundle


def test_models_of_a_dataset_are_compared_on_their_test_set(engine: sa.Engine, tmp_path: Path) -> None:
    two_models(engine, tmp_path)
    with engine.begin() as connection:
        report = read_report(connection, tmp_path)
    (rival,) = report.datasets[0].rivals
    ((only_first, only_second),) = rows(
        engine,
        """SELECT count(*) FILTER (WHERE a.label = a.predicted AND b.label <> b.predicted),
                  count(*) FILTER (WHERE a.label <> a.predicted AND b.label = b.predicted)
           FROM ml.outcome a JOIN ml.outcome b USING (input_id) WHERE a.model_id = 2 AND b.model_id = 1""",
    )
    assert rival.test is not None
    assert (rival.test.only_first, rival.test.only_second) == (only_first, only_second)
    assert rival.test.p_value < 0.001
    assert "the serving model is better" in Page(render(report)).text


def test_models_of_other_test_sets_are_not_compared(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "first", n=50)
    worker_for(engine, tmp_path).run(until_empty=True)
    publish_bundle(tmp_path, "second", n=50, seed=1, promote=True)
    worker_for(engine, tmp_path).run(until_empty=True)
    assert "it has another test set" in Page(report_of(engine, tmp_path)).text


def test_drift_is_shown_with_its_largest_change(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, n=300)
    arrays = arrays_and_labels(300, seed=2)[0]
    arrays[:, 0, 0, 0] -= arrays[:, 0, 0, 0] % 3  # ants only
    load(engine, bundle, arrays)
    worker_for(engine, tmp_path).run(until_empty=True)
    text = Page(report_of(engine, tmp_path)).text
    assert "LARGE CHANGE" in text
    assert re.search(r"(ant|bee|cat): \d+\.\d% to \d+\.\d%", text)


@pytest.mark.parametrize(
    ("psi", "by_chance", "meaning"),
    [
        (0.09, 0.01, "no change"),
        (0.09, 5.0, "no change"),
        (0.275, 5.461, "too few inputs to tell"),
        (0.2, 0.1, "some change"),
        (0.25, 0.2, "LARGE CHANGE"),
    ],
)
def test_a_change_counts_when_it_is_above_chance(psi: float, by_chance: float, meaning: str) -> None:
    assert drift_meaning(SimpleNamespace(psi=psi, psi_by_chance=by_chance)) == meaning


def test_the_replay_is_part_of_the_verdict(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=40)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        report = read_report(connection, tmp_path)
    replayed = Replayed(n=40, n_equal=39, problems=["model 1, chunk 1: the model gives other values"])
    text = Page(render(type(report)(report.made_at, report.datasets, [], replayed))).text
    assert "39 of 40 predictions repeated bit for bit" in text
    assert "PROBLEM" in text


def test_the_report_changes_no_row(engine: sa.Engine, tmp_path: Path) -> None:
    two_models(engine, tmp_path)
    make_report(engine, tmp_path, tmp_path / "out/report.html", None)  # in a transaction that only reads
    assert (tmp_path / "out/report.html").read_bytes().startswith(b"<!DOCTYPE html>")


def test_the_reader_may_not_make_the_report(db: Database, engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=40)
    worker_for(engine, tmp_path).run(until_empty=True)
    reader = db.engine("reader")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        report_of(reader, tmp_path)
    reader.dispose()
