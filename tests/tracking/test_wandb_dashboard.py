"""What a person sees of a training at W&B: charts, tables, images, lineage. Asserted where it arrives, at the server.

The runs are recorded offline by the command line, and uploaded by `pyml sync`.
"""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.bundles import manifest_for, publish_bundle
from support.trainings import DIGITS, only_bundle, pyml, write_experiment
from support.wandb_server import Artifact, Run, WandbServer

from bundle.test_set import read_test_set
from bundle.verify import Bundle
from pyml.config import Settings
from pyml.evaluation.metrics import evaluate, write_predictions
from pyml.tracking.charts import log_charts
from pyml.tracking.shown_samples import show_samples
from pyml.tracking.tracker import start_tracker

MARKER = "zebra quagga okapi"  # words of each text of the dataset `reviews`, in this order
REVIEWS: dict[str, Any] = {
    "name": "reviews",  # as the dataset
    "data": {"name": "reviews", "kind": "text-csv", "path": "reviews.csv", "words": 40, "length": 8}
    | {"validation": 0.2, "test": 0.25},
    "layers": [
        {"layer": "Embedding", "input_dim": 40, "output_dim": 2},
        {"layer": "GlobalAveragePooling1D"},
        {"layer": "Dense", "units": 1, "activation": "sigmoid"},
    ],
    "optimizer": {"name": "Adam", "learning_rate": 0.0001},
    "loss": "binary_crossentropy",
    "epochs": 1,
    "batch_size": 16,
}


@dataclass
class Uploaded:
    """A training that was recorded offline and uploaded: its bundle, its record, the server that got it."""

    bundle: Bundle
    record: Path
    server: WandbServer

    @property
    def run(self) -> Run:
        [run] = self.server.runs.values()
        return run

    def artifact(self, kind: str) -> Artifact:
        [artifact] = (artifact for artifact in self.server.artifacts if artifact.type == kind)
        return artifact

    def table(self, key: str) -> dict[str, Any]:
        """Read a table as the web UI does: by the path in the summary."""
        table: dict[str, Any] = json.loads(self.run.files[self.run.summary[key]["path"]])
        return table

    def everything(self) -> dict[str, bytes]:
        """Give all that the machine holds for W&B, by file, and all requests that left it."""
        files = {str(path): path.read_bytes() for path in self.record.rglob("*") if path.is_file()}
        [run] = self.record.glob("wandb/offline-run-*")
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
        decoded = subprocess.run(inspect, capture_output=True, timeout=60, check=True).stdout
        return files | {f"request {number}": body for number, body in enumerate(self.server.bodies)} | {"log": decoded}


def upload(directory: Path, server: WandbServer, *options: str) -> subprocess.CompletedProcess[str]:
    variables = server.environment(directory) | {"PYML_RECORD": str(directory / "record"), "WANDB_MODE": "online"}
    return pyml("sync", *options, cwd=directory, **variables)


def train_and_upload(directory: Path, server: WandbServer, document: dict[str, Any], **environment: str) -> Uploaded:
    record, experiment = directory / "record", write_experiment(directory, document)
    variables = {"PYML_RECORD": str(record), "WANDB_MODE": "offline"} | environment
    trained = pyml("train", experiment, cwd=directory, **variables)
    assert trained.returncode == 0, trained.stderr
    assert server.requests == []
    synced = upload(directory, server)
    assert (synced.returncode, synced.stdout) == (0, "1 run arrived\n"), synced.stderr
    assert server.unknown_operations == []
    return Uploaded(only_bundle(directory / "models", document["name"]), record, server)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploaded]:
    with WandbServer() as server:
        yield train_and_upload(tmp_path_factory.mktemp("digits"), server, DIGITS)


@pytest.fixture(scope="module")
def digits_with_samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploaded]:
    with WandbServer() as server:
        directory = tmp_path_factory.mktemp("digits_with_samples")
        yield train_and_upload(directory, server, DIGITS, PYML_TRACK_SAMPLES="true")


def train_reviews(directory: Path, server: WandbServer, **environment: str) -> Uploaded:
    with (directory / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(120):
            rows.writerow([f"{MARKER} a{number % 12} b{number // 12}", number % 2])
    return train_and_upload(directory, server, REVIEWS, PYML_DATA_DIR=str(directory), **environment)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploaded]:
    with WandbServer() as server:
        yield train_reviews(tmp_path_factory.mktemp("reviews"), server)


@pytest.fixture(scope="module")
def reviews_with_samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploaded]:
    with WandbServer() as server:
        yield train_reviews(tmp_path_factory.mktemp("reviews_with_samples"), server, PYML_TRACK_SAMPLES="true")


# Charts, metrics, files


def panel(uploaded: Uploaded, key: str) -> dict[str, Any]:
    """Give the configuration of a chart, as it arrived."""
    config = uploaded.run.all_config["_wandb"]["value"]["visualize"][key]["panel_config"]
    assert config["userQuery"]["queryFields"][0]["fields"][-1]["args"][0]["value"] == table_of(key)
    return {"spec": config["panelDefId"], "fields": config["fieldSettings"], "strings": config["stringSettings"]}


def table_of(key: str) -> str:
    return f"{key}_table"


def test_an_interactive_confusion_matrix_arrives(digits: Uploaded) -> None:
    key, manifest = "test/confusion_chart", digits.bundle.manifest
    assert panel(digits, key)["spec"] == "wandb/confusion_matrix/v1"
    table = digits.table(table_of(key))
    assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
    assert panel(digits, key)["fields"] == {name: name for name in table["columns"]}
    counts = {(actual, predicted): count for actual, predicted, count in table["data"]}
    for label, row in zip(manifest.classes, manifest.metrics.confusion, strict=True):
        assert [counts[label, predicted] for predicted in manifest.classes] == list(row)


@pytest.mark.parametrize("key", ["test/roc_chart", "test/precision_recall_chart"])
def test_interactive_curves_arrive(digits: Uploaded, key: str) -> None:
    chart, table = panel(digits, key), digits.table(table_of(key))
    assert chart["spec"] == "wandb/area-under-curve/v0"
    assert table["columns"] == [chart["fields"][name] for name in ("class", "x", "y")]
    assert {row[0] for row in table["data"]} == set(digits.bundle.manifest.classes)
    for name in digits.bundle.manifest.classes:
        x = [row[1] for row in table["data"] if row[0] == name]
        assert {min(x), max(x)} == {0, 1}  # both ends of the curve
        assert 2 <= len(x) <= 50


def test_the_area_below_an_arrived_roc_curve_is_auroc(digits: Uploaded) -> None:
    for name, metrics in zip(digits.bundle.manifest.classes, digits.bundle.manifest.metrics.per_class, strict=True):
        x, y = np.array([row[1:] for row in digits.table(table_of("test/roc_chart"))["data"] if row[0] == name]).T
        assert np.trapezoid(y, x) == pytest.approx(metrics.auroc, abs=0.001)


def test_png_plots_arrive_beside_the_charts(digits: Uploaded) -> None:
    for key in ("test/confusion", "test/roc", "test/precision_recall"):
        assert digits.run.summary[key]["format"] == "png"


def test_the_summary_has_the_best_value_in_its_better_direction(digits: Uploaded) -> None:
    rows = [row for row in digits.run.history if "epoch/epoch" in row]
    assert len(rows) == 2
    for name, best in (("loss", min), ("val_loss", min), ("accuracy", max), ("val_accuracy", max)):
        values = [row[f"epoch/{name}"] for row in rows]
        said = {best.__name__: best(values), "last": values[-1]}
        assert digits.run.summary[f"epoch/{name}"] == pytest.approx(said)


def test_the_experiment_arrives_as_a_file_that_trains_again(digits: Uploaded, tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_bytes(digits.run.files["experiment.json"])
    done = pyml("train", "experiment.json", cwd=tmp_path, PYML_MODELS=str(digits.bundle.path.parents[1]))
    assert done.returncode == 0, done.stderr
    assert f"{digits.bundle.manifest.bundle_id} is published already" in done.stderr


# Lineage


def test_the_lineage_leads_from_the_dataset_over_the_run_to_the_model(digits: Uploaded) -> None:
    manifest, dataset, model = digits.bundle.manifest, digits.artifact("dataset"), digits.artifact("model")
    assert (dataset.name, dataset.run, digits.run.inputs) == ("dataset-digits", None, [dataset])
    assert set(dataset.aliases) == {"latest", f"sha256-{manifest.data_sha256[:12]}"}
    assert (model.name, model.run) == ("tiny", digits.run)


def test_the_dataset_arrives_as_hashes_and_counts(digits: Uploaded) -> None:
    dataset, manifest = digits.artifact("dataset"), digits.bundle.manifest
    assert list(dataset.files) == list(dataset.entries) == ["dataset.json"]
    assert dataset.metadata is not None
    assert json.loads(dataset.files["dataset.json"]) == json.loads(dataset.metadata)
    assert json.loads(dataset.metadata) == {
        "name": "digits",
        "kind": "array",
        "data_sha256": manifest.data_sha256,
        "test_sha256": manifest.test_sha256,
        "dtype": "uint8",
        "shape": [8, 8, 1],
        "classes": list(manifest.classes),
        "samples": {"train": 1167, "validation": 270, "test": 360},
    }


def test_a_dataset_and_a_model_of_one_name_are_two_artifacts(reviews: Uploaded) -> None:
    assert reviews.artifact("model").name == "reviews"
    assert reviews.artifact("dataset").name == "dataset-reviews"


def test_two_runs_on_the_same_data_use_one_version(
    digits: Uploaded, digits_with_samples: Uploaded, tmp_path: Path
) -> None:
    records = [str(path) for one in (digits, digits_with_samples) for path in one.record.glob("wandb/offline-run-*")]
    with WandbServer() as server:
        synced = upload(tmp_path, server, *records)
        assert synced.stdout == "2 runs arrived\n", synced.stderr
        [dataset] = (artifact for artifact in server.artifacts if artifact.type == "dataset")
        assert [run.inputs for run in server.runs.values()] == [[dataset], [dataset]]


def test_a_server_that_forgets_the_lineage_is_noticed(digits: Uploaded, tmp_path: Path) -> None:
    [record] = digits.record.glob("wandb/offline-run-*")
    with WandbServer() as server:
        server.drop_inputs = True
        done = upload(tmp_path, server, str(record))
        assert done.returncode == 1
        assert "its use of dataset-digits did not arrive" in done.stderr


# Samples: only if the user asks for them


def gray(x: np.ndarray) -> np.ndarray:
    """Give samples (n, 8, 8, 1) of digits as they are shown: 0 to 16 become 0 to 255."""
    return (x[..., 0] * (255 / 16)).round().astype(np.uint8)


def pictures(content: dict[str, bytes]) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(data))) for data in content.values() if data.startswith(b"\x89PNG")]


def test_no_pixel_of_a_sample_is_recorded_or_sent_by_default(digits: Uploaded) -> None:
    content = digits.everything()
    assert len(content) > 60
    x, _ = read_test_set(digits.bundle)
    samples = [sample.tobytes() for sample in (*x, *gray(x))]
    assert [name for name, data in content.items() for sample in samples if sample in data] == []
    sizes = {picture.shape[:2] for picture in pictures(content)}
    assert len(sizes) == 2  # the plots; a sample has (8, 8)
    assert min(min(size) for size in sizes) > 100
    assert "test/worst_mistakes" not in digits.run.summary
    assert "input" not in digits.table("test/predictions")["columns"]


def test_no_text_of_a_sample_is_recorded_or_sent_by_default(reviews: Uploaded) -> None:
    x, _ = read_test_set(reviews.bundle)
    tokens = [sample.tobytes() for sample in x]
    searched = [MARKER.encode(), *tokens]
    assert [name for name, data in reviews.everything().items() for text in searched if text in data] == []
    assert "input" not in reviews.table("test/predictions")["columns"]


def test_the_worst_mistakes_arrive_as_a_list_of_images(digits_with_samples: Uploaded) -> None:
    x, _ = read_test_set(digits_with_samples.bundle)
    with (digits_with_samples.bundle.path / "predictions.csv").open(newline="") as file:
        wrong = [row for row in csv.DictReader(file) if row["label"] != row["predicted"]]
    worst = sorted(wrong, key=lambda row: -float(row["confidence"]))[:32]
    images = digits_with_samples.run.summary["test/worst_mistakes"]
    assert (images["_type"], images["count"]) == ("images/separated", 32)
    assert images["captions"] == [
        f"{row['label']} taken for {row['predicted']} ({float(row['confidence']):.2f})" for row in worst
    ]
    arrived = pictures({name: digits_with_samples.run.files[name] for name in images["filenames"]})
    assert np.array_equal(arrived, gray(x[[int(row["sample"]) for row in worst]]))


def test_the_first_predictions_arrive_with_their_images(digits_with_samples: Uploaded) -> None:
    x, _ = read_test_set(digits_with_samples.bundle)
    [artifact] = (a for a in digits_with_samples.server.artifacts if a.name.endswith("testpredictions-" + a.name[-6:]))
    table = json.loads(artifact.files["test/predictions.table.json"])
    assert table["columns"][:3] == ["sample", "input", "label"]
    cells = [row[1] for row in table["data"]]
    assert cells[100:] == [None] * 260
    arrived = pictures({str(row): artifact.files[cell["path"]] for row, cell in enumerate(cells[:100])})
    assert np.array_equal(arrived, gray(x[:100]))


def test_at_most_132_samples_leave_the_machine(digits_with_samples: Uploaded) -> None:
    x, _ = read_test_set(digits_with_samples.bundle)
    sent = {data for data in digits_with_samples.server.bodies if data.startswith(b"\x89PNG")}
    tiles = [picture for picture in pictures({str(n): data for n, data in enumerate(sent)}) if picture.shape == (8, 8)]
    assert 100 < len(tiles) <= 132
    raw = [sample.tobytes() for sample in x]
    content = digits_with_samples.everything()
    assert [name for name, data in content.items() for sample in raw if sample in data] == []


def test_texts_arrive_in_the_words_that_the_model_sees(reviews_with_samples: Uploaded) -> None:
    table = reviews_with_samples.table("test/predictions")
    assert len(table["data"]) == 30
    for row in table["data"]:
        assert row[table["columns"].index("input")].startswith(MARKER)
    worst = reviews_with_samples.table("test/worst_mistakes")
    assert worst["columns"] == ["sample", "input", "label", "predicted", "confidence"]
    assert all(text.startswith(MARKER) and label != predicted for _, text, label, predicted, _ in worst["data"])
    confidences = [row[-1] for row in worst["data"]]
    assert confidences == sorted(confidences, reverse=True) != []


def test_arrays_that_are_no_images_are_not_shown(tmp_path: Path) -> None:
    assert show_samples(publish_bundle(tmp_path, shape=(5,))) is None


# Limits


def test_charts_of_a_thousand_classes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR", "SILENT", "ERROR_REPORTING"):
        monkeypatch.setenv(f"WANDB_{kind}", "")  # the tracker changes them, and monkeypatch restores them
    rng = np.random.default_rng(0)
    classes = ("\x1b[31mred\n", *(f"class {number}" for number in range(1, 1000)))
    y = rng.integers(0, 1000, 2000)
    probabilities = rng.dirichlet(np.full(1000, 0.1), len(y)).astype(np.float32)
    probabilities[y == 0] = np.eye(1000, dtype=np.float32)[1]  # class 0 is the worst
    write_predictions(tmp_path / "predictions.csv", probabilities, y, classes)
    manifest = manifest_for("many", np.zeros((2000, 1), np.uint8), y % 3).model_copy(
        update={"classes": classes, "metrics": evaluate(probabilities, y)}
    )
    tracker = start_tracker("many", {}, None, Settings(record=tmp_path / "record", wandb_mode="offline"))
    log_charts(tracker._run, tmp_path, manifest)
    tracker.finish(0)
    paths = {path.name.partition("_chart")[0]: path for path in (tmp_path / "record").rglob("media/**/*.table.json")}
    tables = {name: json.loads(path.read_text())["data"] for name, path in paths.items()}
    assert {name: len(rows) <= 1000 for name, rows in tables.items()} == dict.fromkeys(
        ("confusion", "roc", "precision_recall"), True
    )
    shown = {name: {row[0] for row in rows} for name, rows in tables.items()}
    assert [len(names) for names in shown.values()] == [20, 20, 20]
    assert "\\x1b[31mred\\n" in shown["roc"]
