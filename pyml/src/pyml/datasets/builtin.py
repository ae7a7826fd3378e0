"""The known datasets: digits, mnist, fashion_mnist, imdb. Samples stay raw; official test sets stay whole."""

import gzip
import hashlib
import io
import json
import logging
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.document import sha256_of_json
from bundle.inputs.arrays import ArraysError, read_npz
from bundle.inputs.preprocessing import (
    RESERVED_WORDS,
    START,
    ArrayPreprocessing,
    ImagePreprocessing,
    TextPreprocessing,
    pad,
)
from bundle.publish import file_sha256
from pyml import PymlError
from pyml.datasets.dataset import Dataset, Prepared, build_dataset
from pyml.datasets.download import FILES, DataDirectory, known_file
from pyml.datasets.split import split_rows
from pyml.experiment.data_spec import Digits, Imdb, Mnist

log = logging.getLogger(__name__)

DIGITS = tuple(map(str, range(10)))
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
N_TRAIN, N_TEST = 60_000, 10_000  # of mnist and fashion_mnist
N_REVIEWS = 25_000  # of imdb, in each of training set and test set

Arrays = dict[str, npt.NDArray[Any]]


def load_digits(data: Digits) -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits: (n, 8, 8, 1) uint8, values 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = digits.images[..., np.newaxis].astype(np.uint8)
    y = digits.target.astype(np.int64)
    return build_dataset(data.name, Prepared(DIGITS, ArrayPreprocessing(), x, y), split_rows(y, data, classes=DIGITS))


def load_mnist(data: Mnist, directory: DataDirectory) -> Dataset:
    """Load MNIST or Fashion-MNIST with its official test set: (n, 28, 28, 1) uint8. Raises PymlError."""
    arrays = _read_mnist(directory) if data.name == "mnist" else _read_fashion(directory)
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.shape != (n, 28, 28) or x.dtype != np.uint8 or y.shape != (n,) or y.max() > 9:
            raise PymlError(
                f"{data.name} in {directory.path} holds {part} arrays {x.dtype} {x.shape} and {y.shape}, "
                f"uint8 ({n}, 28, 28) and ({n},) are needed; delete it, then: pyml download {data.name}"
            )
    x = np.concatenate([arrays["x_train"], arrays["x_test"]])[..., np.newaxis]
    y = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    classes = DIGITS if data.name == "mnist" else CLOTHES
    preprocessing = ImagePreprocessing(height=28, width=28, color="grayscale")
    return build_dataset(data.name, Prepared(classes, preprocessing, x, y), split_rows(y, data, n_test=N_TEST))


def load_imdb(data: Imdb, directory: DataDirectory) -> Dataset:
    """Load IMDB's reviews as (n, length) int32 token numbers, as Keras's example prepares them. Raises PymlError."""
    index = directory.find("imdb", "imdb_word_index.json")
    arrays = _read_imdb(directory.find("imdb", "imdb.npz"))
    words = _known_words(index)
    how = TextPreprocessing(
        length=data.length,
        n_words=min(data.words, len(words)),
        vocabulary_sha256=sha256_of_json(words),
        characters="ascii",
        known_words=len(words),
    )
    shift = len(RESERVED_WORDS) - 1  # in the file the first word has number 1; here it follows the reserved words
    reviews = [*arrays["x_train"], *arrays["x_test"]]
    numbers = [[rank + shift for rank in review[-data.length :]] for review in reviews]
    x = np.stack([pad([START, *review], how) for review in numbers])
    y = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    prepared = Prepared(("negative", "positive"), how, x, y, words)
    return build_dataset(data.name, prepared, split_rows(y, data, n_test=N_REVIEWS))


def _read_mnist(directory: DataDirectory) -> Arrays:
    path = directory.find("mnist", "mnist.npz")
    _warn_if_unknown(path, known_file("mnist", path.name).sha256)
    return _read_official(path, "delete it, then: pyml download mnist")


def _read_fashion(directory: DataDirectory) -> Arrays:
    """Read Zalando's four files. If they are absent, read fashion_mnist.npz, which holds the same arrays."""
    archive = directory.path / "fashion_mnist" / "fashion_mnist.npz"
    if archive.is_file() and not all((archive.parent / file.name).is_file() for file in FILES["fashion_mnist"]):
        _warn_if_unknown(archive, ())
        return _read_official(archive, "delete it, then: pyml download fashion_mnist")
    arrays: Arrays = {}
    for part, file in (("train", "train"), ("test", "t10k")):
        for key, name, header_bytes in (("x", "images-idx3", 16), ("y", "labels-idx1", 8)):
            path = directory.find("fashion_mnist", f"{file}-{name}-ubyte.gz")
            _warn_if_unknown(path, known_file("fashion_mnist", path.name).sha256)
            try:
                values = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)
                arrays[f"{key}_{part}"] = values.reshape(-1, 28, 28) if key == "x" else values
            except (OSError, ValueError, EOFError, zlib.error) as error:
                raise PymlError(
                    f"{path} cannot be read ({error}); delete it, then: pyml download fashion_mnist"
                ) from error
    return arrays


def _read_official(path: Path, advice: str) -> Arrays:
    """Read the four arrays of an .npz file that has the form of Keras's mnist.npz. PymlErrors end with the advice."""
    names = [f"{key}_{part}" for part in ("train", "test") for key in "xy"]
    try:
        arrays = read_npz(path, names)
    except ArraysError as error:
        raise PymlError(f"{error}; {advice}") from error
    if absent := [name for name in names if name not in arrays]:
        raise PymlError(f"{path} holds no {', '.join(absent)}; {advice}")
    return arrays


def _read_imdb(path: Path) -> Arrays:
    """Read the pickled lists. Pickles can run code, so the file is opened only if its hash is known.

    The file is read once: the bytes that are hashed are the bytes that are opened.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in known_file("imdb", path.name).sha256:
        raise PymlError(
            f"{path} has the unknown sha256 {digest[:12]}...; it holds pickles, which can run any code, so it is not "
            "opened; delete it, then: pyml download imdb"
        )
    with np.load(io.BytesIO(content), allow_pickle=True) as file:
        return {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}


def _known_words(path: Path) -> list[str]:
    """Give all words of the index, ordered by token number: the reserved words, then the most frequent words."""
    try:
        ranks = json.loads(path.read_bytes())
        ranked = sorted(ranks, key=ranks.__getitem__)
        if sorted(ranks.values()) != list(range(1, len(ranks) + 1)):
            raise ValueError("its words are not numbered from 1 to their count")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise PymlError(f"{path} is not IMDB's word index ({error}); delete it, then: pyml download imdb") from error
    return [*RESERVED_WORDS, *ranked]


def _warn_if_unknown(path: Path, known: Collection[str]) -> None:
    digest = file_sha256(path)
    if digest not in known:
        log.warning("%s has the unknown sha256 %s...; it is used anyway", path, digest[:12])
