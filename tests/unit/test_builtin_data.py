"""mnist, fashion_mnist and imdb: read from the data directory, raw, with their complete official test sets."""

import gzip
import hashlib
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.inputs.preprocessing import (
    PAD,
    RESERVED_WORDS,
    START,
    UNKNOWN,
    ImagePreprocessing,
    TextPreprocessing,
    prepare_text,
    token_numbers,
)
from pyml import PymlError
from pyml.config import Settings
from pyml.datasets import builtin, download
from pyml.datasets.download import KnownFile
from pyml.datasets.load import DatasetCache, load_dataset
from pyml.experiment.data_spec import Imdb, Mnist
from pyml.experiment.experiment import Experiment
from pyml.training.train import _load_dataset

MNIST = Mnist(name="mnist", validation=0.1)
FASHION = Mnist(name="fashion_mnist", validation=0.1)
N_TRAIN, N_TEST = 200, 40


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "N_TRAIN", N_TRAIN)
    monkeypatch.setattr(builtin, "N_TEST", N_TEST)
    monkeypatch.setattr(builtin, "N_REVIEWS", 60)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, origin="http://127.0.0.1:9/")


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (N_TRAIN + N_TEST, 28, 28), np.uint8)
    y = np.arange(N_TRAIN + N_TEST, dtype=np.uint8) % 10
    return {"x_train": x[:N_TRAIN], "y_train": y[:N_TRAIN], "x_test": x[N_TRAIN:], "y_test": y[N_TRAIN:]}


def put_mnist(settings: Settings, **arrays: np.ndarray) -> Path:
    path = settings.data_dir / "mnist/mnist.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, allow_pickle=True, **arrays)
    return path


def put_fashion(settings: Settings, arrays: dict[str, np.ndarray]) -> Path:
    folder = settings.data_dir / "fashion_mnist"
    folder.mkdir()
    for part, file in (("train", "train"), ("test", "t10k")):
        for key, name, header in (("x", "images-idx3", 16), ("y", "labels-idx1", 8)):
            content = bytes(header) + arrays[f"{key}_{part}"].tobytes()
            (folder / f"{file}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return folder


def test_mnist_is_raw_and_its_official_test_set_is_whole(settings: Settings) -> None:
    arrays = images()
    put_mnist(settings, **arrays)
    mnist = load_dataset(MNIST, settings)
    assert (mnist.input.dtype, mnist.input.shape) == ("uint8", (28, 28, 1))
    assert np.array_equal(mnist.test.x[:], arrays["x_test"][..., np.newaxis])
    assert np.array_equal(mnist.test.y, arrays["y_test"])
    assert (len(mnist.train.y), len(mnist.validation.y)) == (180, 20)
    assert mnist.preprocessing == ImagePreprocessing(height=28, width=28, color="grayscale")


def test_the_validation_set_is_a_stratified_part_of_training(settings: Settings) -> None:
    arrays = images()
    put_mnist(settings, **arrays)
    mnist = load_dataset(MNIST, settings)
    assert np.bincount(mnist.validation.y).tolist() == [2] * 10
    rows = [int(source.removeprefix("row ")) for source in mnist.validation.sources]
    assert max(rows) < N_TRAIN
    assert np.array_equal(mnist.validation.x[:][..., 0], arrays["x_train"][rows])


def test_a_copy_of_an_official_test_sample_is_dropped(settings: Settings) -> None:
    arrays = images()
    arrays["x_train"][:3] = arrays["x_test"][:3]
    put_mnist(settings, **arrays)
    mnist = load_dataset(MNIST, settings)
    assert len(mnist.test.y) == N_TEST
    assert len(mnist.train.y) + len(mnist.validation.y) == N_TRAIN - 3


def test_an_unknown_mnist_is_used_with_a_warning(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    put_mnist(settings, **images())
    with caplog.at_level(logging.WARNING, "pyml"):
        load_dataset(MNIST, settings)
    assert "has the unknown sha256" in caplog.text


def test_a_known_mnist_is_used_without_a_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(put_mnist(settings, **images()).read_bytes()).hexdigest()
    monkeypatch.setitem(download.FILES, "mnist", (KnownFile("mnist.npz", (digest,)),))
    load_dataset(MNIST, settings)
    assert caplog.text == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive"])
def test_a_truncated_mnist_error_says_what_to_do(settings: Settings, content: bytes) -> None:
    put_mnist(settings).write_bytes(content)
    with pytest.raises(PymlError, match=r"mnist\.npz is not a \.npz file .*delete it, then: pyml download mnist"):
        load_dataset(MNIST, settings)


@pytest.mark.parametrize("name", ["x_train", "y_test"])
def test_a_mnist_without_an_array_is_refused_in_one_sentence(settings: Settings, name: str) -> None:
    arrays = images()
    del arrays[name]
    put_mnist(settings, **arrays)
    with pytest.raises(PymlError, match=rf"mnist\.npz holds no {name}; delete it, then"):
        load_dataset(MNIST, settings)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x_train", lambda array: array[:-1]),
        ("x_test", lambda array: array.astype(np.float32)),
        ("y_test", lambda array: array[:, np.newaxis]),
        ("y_train", lambda array: array + 1),
    ],
)
def test_a_mnist_with_wrong_arrays_is_refused_in_one_sentence(settings: Settings, name: str, change: object) -> None:
    arrays = images()
    arrays[name] = change(arrays[name])  # type: ignore[operator]
    put_mnist(settings, **arrays)
    with pytest.raises(PymlError, match=r"are needed; delete it, then: pyml download mnist"):
        load_dataset(MNIST, settings)


def test_a_pickle_in_mnist_is_not_opened(settings: Settings, tmp_path: Path) -> None:
    put_mnist(settings, **images(), x_extra=np.array([Trap(tmp_path / "run")], object))
    load_dataset(MNIST, settings)
    arrays = images() | {"x_train": np.array([Trap(tmp_path / "run")], object)}
    put_mnist(settings, **arrays)
    with pytest.raises(PymlError, match=r"is not a \.npz file of plain numbers"):
        load_dataset(MNIST, settings)
    assert not (tmp_path / "run").exists()


def test_fashion_mnist_is_read_from_its_four_files(settings: Settings) -> None:
    arrays = images()
    put_fashion(settings, arrays)
    fashion = load_dataset(FASHION, settings)
    assert fashion.classes[0] == "T-shirt/top"
    assert np.array_equal(fashion.test.x[:][..., 0], arrays["x_test"])
    assert np.array_equal(fashion.test.y, arrays["y_test"])
    assert len(fashion.train.y) + len(fashion.validation.y) == N_TRAIN


def test_14_fashion_mnist_is_read_from_one_npz_file(settings: Settings) -> None:
    arrays = images()
    folder = put_fashion(settings, arrays)
    wanted = load_dataset(FASHION, settings)
    for path in folder.iterdir():
        path.unlink()
    np.savez(folder / "fashion_mnist.npz", allow_pickle=False, **arrays)
    assert load_dataset(FASHION, settings).fingerprint == wanted.fingerprint


def test_14_the_four_fashion_mnist_files_have_priority(settings: Settings) -> None:
    np.savez(put_fashion(settings, images()) / "fashion_mnist.npz", x_train=np.zeros(1))
    assert load_dataset(FASHION, settings).classes[0] == "T-shirt/top"


def test_14_a_fashion_mnist_npz_without_an_array_is_refused(settings: Settings) -> None:
    (settings.data_dir / "fashion_mnist").mkdir()
    np.savez(settings.data_dir / "fashion_mnist/fashion_mnist.npz", x_train=np.zeros(1))
    with pytest.raises(
        PymlError, match=r"npz holds no y_train, x_test, y_test; delete it, then: pyml download fashion"
    ):
        load_dataset(FASHION, settings)


def test_a_truncated_fashion_mnist_is_refused_in_one_sentence(settings: Settings) -> None:
    path = put_fashion(settings, images()) / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PymlError, match=r"train-labels.* cannot be read .*pyml download fashion_mnist"):
        load_dataset(FASHION, settings)


class Trap:
    """Creates a directory if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


WORDS = [f"word{number}" for number in range(1, 21)]


def put_imdb(settings: Settings, monkeypatch: pytest.MonkeyPatch, known: bool = True) -> dict[str, np.ndarray]:
    """Write sixty reviews for training and sixty for the test, of twenty words. A review is the ranks of its words."""
    rng = np.random.default_rng(0)
    reviews = np.empty(120, object)
    for row in range(120):
        reviews[row] = rng.integers(1, 21, rng.integers(3, 15)).tolist()
    y = np.arange(120) % 2
    arrays = {"x_train": reviews[:60], "y_train": y[:60], "x_test": reviews[60:], "y_test": y[60:]}
    folder = settings.data_dir / "imdb"
    folder.mkdir()
    np.savez(folder / "imdb.npz", **arrays, allow_pickle=True)
    (folder / "imdb_word_index.json").write_text(json.dumps({word: rank for rank, word in enumerate(WORDS, 1)}))
    digest = hashlib.sha256((folder / "imdb.npz").read_bytes()).hexdigest() if known else "0" * 64
    monkeypatch.setitem(download.FILES, "imdb", (KnownFile("imdb.npz", (digest,)), download.FILES["imdb"][1]))
    return arrays


IMDB = Imdb(name="imdb", validation=0.2, words=15, length=8)


def test_imdb_is_prepared_as_in_serving(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = put_imdb(settings, monkeypatch)
    imdb = load_dataset(IMDB, settings)
    assert isinstance(imdb.preprocessing, TextPreprocessing)
    numbers = token_numbers(imdb.words)
    texts = [" ".join(WORDS[rank - 1] for rank in review) for review in arrays["x_test"]]
    served = np.stack([prepare_text(text, imdb.preprocessing, numbers) for text in texts])
    assert imdb.input.dtype == "int32"
    assert np.array_equal(imdb.test.x[:], served)


def test_imdb_has_numbers_for_its_most_frequent_words(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    put_imdb(settings, monkeypatch)
    imdb = load_dataset(IMDB, settings)
    assert list(imdb.words) == [*RESERVED_WORDS, *WORDS]
    assert (imdb.n_words, imdb.test.x[:].max()) == (15, 14)


def test_10_an_embedding_needs_a_row_for_each_token_number(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    put_imdb(settings, monkeypatch)
    document: dict[str, Any] = {
        "name": "reviews",
        "data": IMDB.model_dump(),
        "layers": [
            {"layer": "Embedding", "input_dim": 15, "output_dim": 2},
            {"layer": "Flatten"},
            {"layer": "Dense", "units": 1, "activation": "sigmoid"},
        ],
        "optimizer": {"name": "Adam", "learning_rate": 0.01},
        "loss": "binary_crossentropy",
        "epochs": 1,
        "batch_size": 8,
    }
    assert _load_dataset(Experiment.model_validate_json(json.dumps(document)), DatasetCache(settings)).n_words == 15
    document["layers"][0]["input_dim"] = 14
    with pytest.raises(PymlError, match=r"token numbers of 15 words need Embedding\(input_dim=15"):
        _load_dataset(Experiment.model_validate_json(json.dumps(document)), DatasetCache(settings))


def test_10_a_raw_review_becomes_the_token_numbers_of_imdb(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    put_imdb(settings, monkeypatch)
    imdb = load_dataset(IMDB.model_copy(update={"length": 6}), settings)
    assert isinstance(imdb.preprocessing, TextPreprocessing)
    numbers = token_numbers(imdb.words)
    # a word with a number, a known word without a number, an unknown word (with an upper-case É), a word with a number
    served = prepare_text("WORD1<br />word19 Éword2 word2", imdb.preprocessing, numbers)
    assert served.tolist() == [PAD, PAD, START, 4, UNKNOWN, 5]


def test_a_limit_above_the_vocabulary_size_gives_all_words(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    put_imdb(settings, monkeypatch)
    imdb = load_dataset(IMDB.model_copy(update={"words": 5000}), settings)
    assert len(imdb.words) == imdb.n_words == 24


def test_imdb_test_set_stays_whole(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = put_imdb(settings, monkeypatch)
    assert np.array_equal(load_dataset(IMDB, settings).test.y, arrays["y_test"])


def test_an_unknown_imdb_file_is_not_opened(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_imdb(settings, monkeypatch)
    trapped = io.BytesIO()
    np.savez(trapped, x_train=np.array([Trap(tmp_path / "run")], object), allow_pickle=True)
    (settings.data_dir / "imdb/imdb.npz").write_bytes(trapped.getvalue())
    with pytest.raises(
        PymlError, match=r"has the unknown sha256 .*; it holds pickles.*delete it, then: pyml download imdb"
    ):
        load_dataset(IMDB, settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("index", ["[]", "{", '{"a": 2}', '{"a": "b"}', '{"a": 1, "b": 1}'])
def test_an_invalid_word_index_is_refused_in_one_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    put_imdb(settings, monkeypatch)
    (settings.data_dir / "imdb/imdb_word_index.json").write_text(index)
    with pytest.raises(PymlError, match="is not IMDB's word index"):
        load_dataset(IMDB, settings)
