"""Train on the user's own datasets: a folder of images, and a CSV file of texts."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.trainings import only_bundle, pyml, settings_without_wandb, write_experiment

from bundle.inputs.preprocessing import (
    ImagePreprocessing,
    TextPreprocessing,
    prepare_image,
    prepare_text,
    token_numbers,
)
from bundle.vocabulary import read_vocabulary
from pyml.config import Settings
from pyml.evaluation.recheck import recheck
from pyml.experiment.experiment import read_experiments
from pyml.training.train import train


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_without_wandb(tmp_path)


# A folder of images


def paint_shapes(folder: Path) -> None:
    """Write forty images of each of two classes. The left or the right half is bright."""
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
        "name": "shapes",
        "kind": "image-folder",
        "path": "shapes",
        "height": 96,
        "width": 96,
        "validation": 0.2,
        "test": 0.25,
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
    """A folder of images (2 MB), trained in two processes: with samples in memory, and with samples in a file."""
    directory = tmp_path_factory.mktemp("shapes")
    paint_shapes(directory / "data/shapes")
    experiment = write_experiment(directory, SHAPES)
    for models, megabytes in (("in_memory", "100"), ("streamed", "1")):
        done = pyml("train", experiment, cwd=directory, PYML_MODELS=models, PYML_MEMORY_MB=megabytes)
        assert done.returncode == 0, done.stderr
    return directory


def test_a_folder_of_images_trains_from_an_experiment_file(shapes: Path) -> None:
    bundle = only_bundle(shapes / "in_memory", "shapes_cnn")
    assert bundle.manifest.classes == ("left", "right")
    assert bundle.manifest.metrics.accuracy > 0.9


def test_the_test_set_of_images_is_prepared_as_in_serving(shapes: Path) -> None:
    bundle = only_bundle(shapes / "in_memory", "shapes_cnn")
    how = bundle.manifest.preprocessing
    assert isinstance(how, ImagePreprocessing)
    with (bundle.path / "split.csv").open(newline="") as file:
        sources = [row["source"] for row in csv.DictReader(file) if row["part"] == "test"]
    served = np.stack([prepare_image(shapes / "data/shapes" / source, how) for source in sources])
    assert np.array_equal(np.load(bundle.path / "test_set.npz")["x"], served)


def test_samples_in_a_file_train_the_same_weights(shapes: Path) -> None:
    in_memory, streamed = (only_bundle(shapes / models, "shapes_cnn") for models in ("in_memory", "streamed"))
    assert streamed.path.name == in_memory.path.name
    assert streamed.model_sha256 == in_memory.model_sha256
    for name in ("test_set.npz", "predictions.csv", "split.csv"):
        assert streamed.manifest.files[name] == in_memory.manifest.files[name]


def test_prepared_images_are_removed_after_the_training(shapes: Path) -> None:
    assert {path.name for path in (shapes / "streamed").iterdir()} == {"bundles", "current"}


def test_images_beyond_the_limit_do_not_fill_the_memory(tmp_path: Path) -> None:
    """240 MB of prepared images are read, split, hashed and written. The memory grows by less than 100 MB."""
    for name in ("a", "b"):
        (tmp_path / "points" / name).mkdir(parents=True)
        for number in range(60):
            shade = (number, 128 if name == "a" else 0, 0)
            Image.new("RGB", (1, 1), shade).save(tmp_path / "points" / name / f"{number}.png")
    program = r"""
        import re, sys
        from pathlib import Path
        from pyml.config import Settings
        from pyml.experiment.data_spec import ImageFolder
        from pyml.datasets.samples import parts, save_npz
        from pyml.datasets.load import load_dataset
        import PIL.Image, sklearn.model_selection
        directory = Path(sys.argv[1])
        # VmHWM is the peak of this program alone; ru_maxrss starts at the peak of its parent.
        peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
        before = peak()
        size = {"height": 816, "width": 816}
        data = ImageFolder(name="points", kind="image-folder", path="points", **size, validation=0.1, test=0.5)
        dataset = load_dataset(data, Settings(data_dir=directory, models=directory, memory_mb=int(sys.argv[2])))
        dataset.fingerprint
        save_npz(directory / "test_set.npz", x=dataset.test.x, y=dataset.test.y)
        for start in range(0, len(dataset.train.x), 8):
            dataset.train.x[start : start + 8]
        print(peak() - before)
    """

    def growth_mb(memory_mb: int) -> int:
        source = "\n".join(line[8:] for line in program.splitlines())
        command = [sys.executable, "-c", source, str(tmp_path), str(memory_mb)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert growth_mb(memory_mb=10) < 100
    assert growth_mb(memory_mb=1000) > 200  # the measurement notices samples in memory


# A CSV file of texts

REVIEWS: dict[str, Any] = {
    "name": "reviews_mean",
    "data": {
        "name": "reviews",
        "kind": "text-csv",
        "path": "reviews.csv",
        "text_column": "review",
        "label_column": "stars",
        "words": 40,
        "length": 8,
        "validation": 0.2,
        "test": 0.25,
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


def test_a_csv_of_texts_trains_from_an_experiment_file(settings: Settings) -> None:
    settings.data_dir.mkdir()
    write_reviews(settings.data_dir / "reviews.csv")
    (experiment,) = read_experiments(write_experiment(settings.data_dir, REVIEWS))
    bundle, _ = train(experiment, settings)
    assert bundle.manifest.classes == ("1", "5")
    assert bundle.manifest.metrics.accuracy > 0.9
    assert all(check.agrees for check in recheck(bundle.path))
    # Serving prepares the same texts to the same arrays, only with the bundle.
    how = bundle.manifest.preprocessing
    assert isinstance(how, TextPreprocessing)
    numbers = token_numbers(read_vocabulary(bundle))
    lines = (settings.data_dir / "reviews.csv").read_text("utf-8-sig").splitlines()
    texts = [text for _, text, _ in csv.reader(lines[1:])]
    with (bundle.path / "split.csv").open(newline="") as file:
        tested = [row["source"] for row in csv.DictReader(file) if row["part"] == "test"]
    served = np.stack([prepare_text(texts[int(line.removeprefix("line ")) - 2], how, numbers) for line in tested])
    assert np.array_equal(np.load(bundle.path / "test_set.npz")["x"], served)
