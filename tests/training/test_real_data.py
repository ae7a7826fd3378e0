"""The real datasets are equal to those of Keras, prepared as in Keras's examples."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bundle.inputs.preprocessing import TextPreprocessing, prepare_text, token_numbers
from pyml.config import Settings
from pyml.datasets.dataset import Dataset
from pyml.datasets.load import load_dataset
from pyml.experiment.data_spec import ImageFolder, Imdb, Mnist


@pytest.fixture(scope="module")
def imdb(data_dir: Path) -> Dataset:
    return load_dataset(Imdb(name="imdb", validation=0.1, words=5000, length=400), Settings(data_dir=data_dir))


def test_mnist_equals_the_arrays_of_keras(data_dir: Path) -> None:
    mnist = load_dataset(Mnist(name="mnist", validation=0.1), Settings(data_dir=data_dir))
    with np.load(data_dir / "mnist/mnist.npz") as file:
        assert np.array_equal(mnist.test.x[:][..., 0], file["x_test"])
        assert np.array_equal(mnist.test.y, file["y_test"])
        assert np.bincount(mnist.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (len(mnist.train.y), len(mnist.validation.y), len(mnist.test.y)) == (54_000, 6_000, 10_000)


def test_imdb_equals_the_sequences_of_keras(data_dir: Path, imdb: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    from keras.src.datasets import imdb as theirs

    monkeypatch.setattr(theirs, "get_file", lambda *_, **__: str(data_dir / "imdb/imdb.npz"))
    _, (x, y) = keras.datasets.imdb.load_data(num_words=5000)
    shuffled = np.arange(25_000)
    rng = np.random.RandomState(113)
    rng.shuffle(np.arange(25_000))  # Keras shuffles the training set first
    rng.shuffle(shuffled)
    assert np.array_equal(imdb.test.y[shuffled], y)
    assert np.array_equal(imdb.test.x[shuffled], keras.utils.pad_sequences(x, maxlen=400))


def test_raw_reviews_become_the_stored_token_numbers(data_dir: Path, imdb: Dataset) -> None:
    path = data_dir / "imdb/raw_100.jsonl"
    if not path.is_file():
        pytest.skip(f"NO RAW REVIEWS in {path}: nothing was tested")
    assert isinstance(imdb.preprocessing, TextPreprocessing)
    numbers = token_numbers(imdb.words)
    reviews = [json.loads(line) for line in path.read_text(encoding="utf-8").strip().split("\n")]
    served = np.stack([prepare_text(review["text"], imdb.preprocessing, numbers) for review in reviews])
    assert len(reviews) == 100
    assert np.array_equal(served, imdb.test.x[np.array([review["x_test_row"] for review in reviews])])


def test_test_reviews_are_not_in_the_training_set(imdb: Dataset) -> None:
    test = {row.tobytes() for row in imdb.test.x[:]}
    assert not test & {row.tobytes() for part in (imdb.train, imdb.validation) for row in part.x[:]}
    assert (len(imdb.train.y) + len(imdb.validation.y), len(imdb.test.y)) == (24_855, 25_000)


def test_all_900_animals_are_read_without_other_files(data_dir: Path) -> None:
    animals = ImageFolder(
        name="animals", kind="image-folder", path="animals", height=32, width=32, validation=0.15, test=0.2
    )
    dataset = load_dataset(animals, Settings(data_dir=data_dir))
    parts = (dataset.train, dataset.validation, dataset.test)
    assert Counter(source.partition("/")[0] for part in parts for source in part.sources) == dict.fromkeys(
        ("cat", "dog", "snake"), 300
    )
    assert np.bincount(dataset.test.y).tolist() == [60, 60, 60]
