"""Experiments from their files alone: data of one's own, files and grids in sequence, the same weights again."""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.manifest import VOCABULARY_FILE
from bundle.preprocessing import (
    ImagePreprocessing,
    TextPreprocessing,
    prepare_image,
    prepare_text,
    read_vocabulary,
    token_numbers,
)
from bundle.verify import Bundle, open_bundle, open_current
from pyml.config import Settings
from pyml.experiment import read_experiments
from pyml.retest import retest
from pyml.train import train

PYML = Path(sys.executable).with_name("pyml")
LAST = {"layer": "Dense", "units": 10, "activation": "softmax"}
DIGITS: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "validation": 0.15, "test": 0.2},
    "layers": [{"layer": "Rescaling", "scale": 0.0625}, {"layer": "Flatten"}, {"layer": "Dropout", "rate": 0.1}, LAST],
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "loss": "sparse_categorical_crossentropy",
    "epochs": 2,
    "batch_size": 32,
}


def write(directory: Path, document: dict[str, Any], **changes: Any) -> Path:
    path = directory / f"{changes.get('name', document['name'])}.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


def pyml(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYML, *arguments],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "PYML", "GIT_"))}
        | {"WANDB_MODE": "disabled"}
        | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def only_bundle(models: Path, name: str) -> Bundle:
    (path,) = models.glob(f"bundles/{name}-*")
    return open_bundle(path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        models=tmp_path / "models", record=tmp_path / "wandb", data_dir=tmp_path / "data", wandb_mode="disabled"
    )


# A folder of images


def paint_shapes(folder: Path) -> None:
    """Forty pictures of each of two classes, told apart by which half is bright."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 80, (96, 96, 3), np.uint8)
            pixels[:, slice(0, 48) if name == "left" else slice(48, 96)] += 120
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


SHAPES: dict[str, Any] = {
    "name": "shapes_cnn",
    "data": {
        **{"name": "shapes", "kind": "image-folder", "path": "shapes", "height": 96, "width": 96},
        **{"validation": 0.2, "test": 0.25},
    },
    "layers": [
        {"layer": "Rescaling", "scale": 0.004},
        {"layer": "RandomContrast", "factor": 0.1},
        {"layer": "AveragePooling2D", "pool_size": 24},
        {"layer": "Flatten"},
        {"layer": "Dense", "units": 2, "activation": "softmax"},
    ],
    "optimizer": {"name": "Adam", "learning_rate": 0.05},
    "loss": "categorical_crossentropy",
    "metrics": ["accuracy", "AUC"],
    "epochs": 12,
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images trained in two processes: from memory, and, since they are 2 MB, streamed from a file."""
    directory = tmp_path_factory.mktemp("shapes")
    paint_shapes(directory / "data/shapes")
    experiment = write(directory, SHAPES)
    for models, megabytes in (("in_memory", "100"), ("streamed", "1")):
        done = pyml("train", experiment, cwd=directory, PYML_MODELS=models, PYML_MEMORY_MB=megabytes)
        assert done.returncode == 0, done.stderr
    return directory


def test_a_folder_of_images_trains_from_an_experiment_file_alone(shapes: Path) -> None:
    bundle = only_bundle(shapes / "in_memory", "shapes_cnn")
    assert bundle.manifest.classes == ("left", "right")
    assert bundle.manifest.metrics.accuracy > 0.9


def test_its_held_out_set_is_what_serving_prepares_of_the_files(shapes: Path) -> None:
    bundle = only_bundle(shapes / "in_memory", "shapes_cnn")
    how = bundle.manifest.preprocessing
    assert isinstance(how, ImagePreprocessing)
    with (bundle.path / "split.csv").open(newline="") as file:
        sources = [row["source"] for row in csv.DictReader(file) if row["part"] == "test"]
    served = np.stack([prepare_image(shapes / "data/shapes" / source, how) for source in sources])
    assert np.array_equal(np.load(bundle.path / "holdout.npz")["x"], served)


def test_streamed_from_a_file_in_another_process_it_trains_to_the_same_weights(shapes: Path) -> None:
    in_memory, streamed = (only_bundle(shapes / models, "shapes_cnn") for models in ("in_memory", "streamed"))
    assert streamed.path.name == in_memory.path.name
    assert streamed.model_sha256 == in_memory.model_sha256
    for name in ("holdout.npz", "predictions.csv", "split.csv"):
        assert streamed.manifest.files[name] == in_memory.manifest.files[name]


def test_no_prepared_image_stays_behind(shapes: Path) -> None:
    assert {path.name for path in (shapes / "streamed").iterdir()} == {"bundles", "current"}


def test_images_far_beyond_the_memory_limit_do_not_fill_the_memory(tmp_path: Path) -> None:
    """240 MB of prepared images are read, split, hashed, written and gone through, with 100 MB of growth at most."""
    for name in ("a", "b"):
        (tmp_path / "points" / name).mkdir(parents=True)
        for number in range(60):
            shade = (number, 128 if name == "a" else 0, 0)
            Image.new("RGB", (1, 1), shade).save(tmp_path / "points" / name / f"{number}.png")
    program = r"""
        import re, sys
        from pathlib import Path
        from pyml.config import Settings
        from pyml.data import ImageFolder
        from pyml.samples import parts, save_npz
        from pyml.source import load_dataset
        import PIL.Image, sklearn.model_selection
        directory = Path(sys.argv[1])
        # Of this program alone: ru_maxrss begins with what its parent once held.
        peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
        before = peak()
        size = {"height": 816, "width": 816}
        data = ImageFolder(name="points", kind="image-folder", path="points", **size, validation=0.1, test=0.5)
        dataset = load_dataset(data, Settings(data_dir=directory, models=directory, memory_mb=int(sys.argv[2])))
        dataset.fingerprint
        save_npz(directory / "holdout.npz", x=dataset.test.x, y=dataset.test.y)
        for start in range(0, len(dataset.train.x), 8):
            dataset.train.x[start : start + 8]
        print(peak() - before)
    """

    def growth_mb(memory_mb: int) -> int:
        source = "\n".join(line[8:] for line in program.splitlines())
        command = [sys.executable, "-c", source, str(tmp_path), str(memory_mb)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert growth_mb(memory_mb=10) < 100
    assert growth_mb(memory_mb=1000) > 200  # the measurement sees what is held in memory


# A CSV file of texts

REVIEWS: dict[str, Any] = {
    "name": "reviews_mean",
    "data": {
        **{"name": "reviews", "kind": "text-csv", "path": "reviews.csv", "text_column": "review"},
        **{"label_column": "stars", "words": 40, "length": 8, "validation": 0.2, "test": 0.25},
    },
    "layers": [
        {"layer": "Embedding", "input_dim": 40, "output_dim": 8},
        {"layer": "GlobalAveragePooling1D"},
        {"layer": "Dense", "units": 1, "activation": "sigmoid"},
    ],
    "optimizer": {"name": "Adam", "learning_rate": 0.1},
    "loss": "binary_crossentropy",
    "epochs": 10,
    "batch_size": 16,
}


def write_reviews(path: Path) -> None:
    rng = np.random.default_rng(0)
    words = {"5": "good great fine nice lovely".split(), "1": "bad awful dull poor sad".split()}
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "review", "stars"])
        for number in range(160):
            stars = "51"[number % 2]
            rows.writerow([number, f'A "{rng.choice(words[stars])}", {rng.choice(words[stars])} film{number}.', stars])


def test_a_csv_of_texts_trains_from_an_experiment_file_alone(settings: Settings) -> None:
    settings.data_dir.mkdir()
    write_reviews(settings.data_dir / "reviews.csv")
    (experiment,) = read_experiments(write(settings.data_dir, REVIEWS))
    bundle, _ = train(experiment, settings)
    assert bundle.manifest.classes == ("1", "5")
    assert bundle.manifest.metrics.accuracy > 0.9
    assert all(row.agrees for row in retest(bundle.path))
    # and serving prepares the same texts to the same arrays, with nothing but the bundle
    how = bundle.manifest.preprocessing
    assert isinstance(how, TextPreprocessing)
    numbers = token_numbers(read_vocabulary(bundle.path / VOCABULARY_FILE, how))
    lines = (settings.data_dir / "reviews.csv").read_text("utf-8-sig").splitlines()
    texts = [text for _, text, _ in csv.reader(lines[1:])]
    with (bundle.path / "split.csv").open(newline="") as file:
        tested = [row["source"] for row in csv.DictReader(file) if row["part"] == "test"]
    served = np.stack([prepare_text(texts[int(line.removeprefix("line ")) - 2], how, numbers) for line in tested])
    assert np.array_equal(np.load(bundle.path / "holdout.npz")["x"], served)


# Several experiments


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of two and a file of one, trained in one process; then that one alone in another."""
    directory = tmp_path_factory.mktemp("sequence")
    grid = write(directory, DIGITS, name="grid", optimizer={"name": "Adam", "learning_rate": [0.01, 0.001]})
    alone = write(directory, DIGITS, name="alone", seed=3)
    done = pyml("train", grid, alone, cwd=directory, PYML_MODELS="models", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (directory / "said").write_text(done.stdout + done.stderr)
    done = pyml("train", alone, cwd=directory, PYML_MODELS="again")
    assert done.returncode == 0, done.stderr
    return directory


def test_several_files_and_their_grids_are_trained_in_sequence(sequence: Path) -> None:
    bundles = [open_bundle(path) for path in (sequence / "models/bundles").iterdir()]
    bundles.sort(key=lambda bundle: bundle.manifest.created_at)
    assert [bundle.manifest.name for bundle in bundles] == [
        "grid-learning_rate_0.01",
        "grid-learning_rate_0.001",
        "alone",
    ]
    rates = [bundle.manifest.experiment["optimizer"]["learning_rate"] for bundle in bundles]
    assert rates == [0.01, 0.001, 0.01]


def test_they_are_one_group_in_wandb(sequence: Path) -> None:
    groups = []
    for run in (sequence / ".local/wandb/wandb").glob("offline-run-*"):
        inspect = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", run]
        done = subprocess.run(inspect, capture_output=True, text=True, timeout=60, check=True)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        groups += [record["run"]["run_group"] for record in records if record["type"] == "run"]
    assert groups == ["grid+alone"] * 3


def test_the_same_commit_file_and_machine_give_the_same_weights_whatever_trained_before(sequence: Path) -> None:
    after_others, alone = (only_bundle(sequence / models, "alone") for models in ("models", "again"))
    assert after_others.path.name == alone.path.name
    assert after_others.model_sha256 == alone.model_sha256


def test_the_last_one_is_current(sequence: Path) -> None:
    models = sequence / "models"
    assert open_current(models, models / "current/digits.json").manifest.name == "alone"


def test_a_mistake_in_any_file_is_found_before_the_first_is_trained(tmp_path: Path) -> None:
    good = write(tmp_path, DIGITS, name="good")
    pooled = [DIGITS["layers"][0], {"layer": "MaxPooling2D", "pool_size": 9}, {"layer": "Flatten"}, LAST]
    bad = write(tmp_path, DIGITS, name="bad", layers=pooled)
    done = pyml("train", good, bad, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pyml: experiment bad: layers.1, MaxPooling2D(pool_size=9)")
    assert "training" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_one_that_fails_does_not_stop_the_others(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    from pyml import PymlError
    from pyml.cli import _train

    exploding = [*DIGITS["layers"][:-1], {"layer": "Dense", "units": 64, "activation": "exponential"}, LAST]
    diverging = {"layers": exploding, "optimizer": {"name": "SGD", "learning_rate": 1e10}}
    settings.data_dir.mkdir()
    paths = [write(settings.data_dir, DIGITS, name="bad", **diverging), write(settings.data_dir, DIGITS, name="good")]
    with (
        caplog.at_level(logging.ERROR, "pyml"),
        pytest.raises(PymlError, match="1 of 2 experiments failed: bad"),
    ):
        _train(paths, settings, force=False, clean=False, quiet=True)
    assert "diverged" in caplog.text
    assert only_bundle(settings.models, "good")


def test_all_tests_what_was_trained_though_another_failed(tmp_path: Path) -> None:
    exploding = [*DIGITS["layers"][:-1], {"layer": "Dense", "units": 64, "activation": "exponential"}, LAST]
    diverging = {"layers": exploding, "optimizer": {"name": "SGD", "learning_rate": 1e10}}
    paths = [write(tmp_path, DIGITS, name="bad", **diverging), write(tmp_path, DIGITS, name="good")]
    done = pyml("all", *paths, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "pyml: 1 of 2 experiments failed: bad"
    assert "manifest" in done.stdout
    assert "DIFFERENT" not in done.stdout


# What is asked of the machine


def test_without_determinism_it_trains_all_the_same(settings: Settings, tmp_path: Path) -> None:
    from tensorflow.python.framework.config import is_op_determinism_enabled

    for deterministic in (False, True):
        (experiment,) = read_experiments(write(tmp_path, DIGITS, deterministic=deterministic))
        bundle, _ = train(experiment, settings)
        assert bundle.manifest.experiment["deterministic"] is deterministic
        assert is_op_determinism_enabled() is deterministic


@pytest.mark.parametrize(
    ("state", "said"), [("true", "the git tree has changes"), ("false", None), ("", "not known whether")]
)
def test_a_dirty_tree_is_refused_on_request(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, state: str, said: str | None
) -> None:
    from pyml import PymlError
    from pyml.provenance import require_clean

    asked = settings.model_copy(update={"git_commit": "c0ffee", "git_dirty": {"true": True, "false": False}.get(state)})
    if said is None:
        require_clean(asked)
    else:
        with pytest.raises(PymlError, match=said):
            require_clean(asked)


def test_a_dirty_tree_trains_nothing_with_require_clean(tmp_path: Path) -> None:
    done = pyml(
        "train", write(tmp_path, DIGITS), "--require-clean", cwd=tmp_path, GIT_COMMIT="c0ffee", GIT_DIRTY="true"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("pyml: --require-clean: the git tree has changes")
    assert not (tmp_path / "models").exists()


@pytest.fixture
def long_training(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real trainer in the middle of a training that will not end by itself."""
    process = subprocess.Popen(
        [PYML, "train", write(tmp_path, DIGITS, epochs=1_000_000)],
        cwd=tmp_path,
        env={**os.environ, "WANDB_MODE": "disabled"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    yield process
    process.kill()
    process.wait()


def test_26_a_trainer_killed_while_training_leaves_only_a_temporary_directory(
    long_training: subprocess.Popen[str], tmp_path: Path
) -> None:
    long_training.send_signal(signal.SIGKILL)
    long_training.wait()
    assert [path.name.startswith(".tmp-") for path in (tmp_path / "models/bundles").iterdir()] == [True]
    assert not (tmp_path / "models/current").exists()
