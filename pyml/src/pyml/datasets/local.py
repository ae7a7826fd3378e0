"""The user's own datasets: a folder of images, a CSV file of texts, arrays. Serving prepares inputs in the same way."""

import collections
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.document import sha256_of_json
from bundle.inputs.arrays import Array, cast_samples, npz_names, read_labels, read_npy, read_npz
from bundle.inputs.files import list_images, read_texts, readable_name
from bundle.inputs.preprocessing import (
    RESERVED_WORDS,
    ArrayPreprocessing,
    ImagePreprocessing,
    PreprocessingError,
    TextPreprocessing,
    prepare_image,
    prepare_text,
    token_numbers,
    words_of,
)
from bundle.messages import list_names
from pyml import PymlError
from pyml.datasets.dataset import Dataset, Prepared, build_dataset
from pyml.datasets.download import DataDirectory
from pyml.datasets.samples import store_samples
from pyml.datasets.split import drop_copies, split_rows
from pyml.experiment.data_spec import ImageFolder, Npy, Npz, TextCsv

log = logging.getLogger(__name__)

ONE_PAIR, OFFICIAL = ("x", "y"), ("x_train", "y_train", "x_test", "y_test")  # arrays of an .npz file


def load_images(data: ImageFolder, directory: DataDirectory, *, memory_bytes: int, scratch: Path) -> Dataset:
    """Prepare a folder that has one sub-folder per class. Skip an image that cannot be read, and log its name.

    The prepared images stay in memory, or in a file in scratch if they need more than memory_bytes. Raises PymlError.
    """
    folder = directory.resolve(data.path)
    how = ImagePreprocessing(height=data.height, width=data.width, color=data.color)
    images = list_images(folder)
    names = sorted({label for _, label in images if label is not None})
    if odd := [name for name in names if name != readable_name(name)]:
        raise PymlError(f"{folder}: the name of the class folder {readable_name(odd[0])} is not UTF-8; rename it")
    if len(names) < 2:
        listed = f" ({names[0]})" if names else ""
        raise PymlError(
            f"{folder} holds images of {len(names)} classes{listed}; two or more are needed, each in its own sub-folder"
        )
    labels: list[str | None] = []
    sources: list[str] = []

    def prepare() -> Iterator[npt.NDArray[np.uint8]]:
        for path, label in images:
            try:
                yield prepare_image(path, how)
            except PreprocessingError as error:
                log.warning("skipped: %s", error)
                continue
            labels.append(label)
            sources.append(readable_name(path.relative_to(folder).as_posix()))

    shape = (len(images), *how.shape)
    x = store_samples(prepare(), shape, memory_bytes=memory_bytes, directory=scratch)
    if len(labels) < len(images):
        log.warning("%s: %d of %d images were skipped", folder, len(images) - len(labels), len(images))
    classes, y = _number(labels, folder)
    return build_dataset(data.name, Prepared(classes, how, x, y, sources=sources), split_rows(y, data, classes=classes))


def load_texts(data: TextCsv, directory: DataDirectory) -> Dataset:
    """Prepare a CSV file of texts. Only words of the training set are in the vocabulary. Raises PymlError."""
    path = directory.resolve(data.path)
    rows = list(read_texts(path, data.text_column, data.label_column))
    classes, y = _number([row.label for row in rows], path)
    texts = [words_of(row.text) for row in rows]
    # Copies are dropped before the words are counted, and again after the preparation, which can make texts equal.
    parts = drop_copies(
        split_rows(y, data, classes=classes), [hashlib.sha256(" ".join(text).encode()).hexdigest() for text in texts]
    )
    words = build_vocabulary([texts[row] for row in parts.train], data.words)
    if len(words) == len(RESERVED_WORDS):
        raise PymlError(f"{path}: the training texts hold no word")
    how = TextPreprocessing(length=data.length, n_words=len(words), vocabulary_sha256=sha256_of_json(words))
    numbers = token_numbers(words)
    x = np.stack([prepare_text(row.text, how, numbers) for row in rows])
    prepared = Prepared(classes, how, x, y, words, [f"line {row.line}" for row in rows])
    return build_dataset(data.name, prepared, parts)


def build_vocabulary(texts: Sequence[Sequence[str]], n_words: int) -> list[str]:
    """Give the reserved words, then the most frequent words, in the order of token numbers.

    Words of equal frequency are in alphabetical order.
    """
    counts = collections.Counter(word for text in texts for word in text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return [*RESERVED_WORDS, *ranked[: n_words - len(RESERVED_WORDS)]]


def load_arrays(data: Npz | Npy, directory: DataDirectory) -> Dataset:
    """Read arrays and cast them to uint8, int32 or float32. Raises PymlError that says what is needed."""
    path = directory.resolve(data.path)
    n_test = 0
    if isinstance(data, Npy):
        x, labels = read_npy(path), read_npy(directory.resolve(data.labels))
    else:
        arrays = read_npz(path, (*ONE_PAIR, *OFFICIAL))
        official = set(OFFICIAL) <= arrays.keys()
        if official == (data.test is not None) or not (official or set(ONE_PAIR) <= arrays.keys()):
            held = list_names(npz_names(path)) or "nothing"
            raise PymlError(
                f"{path} holds {held}; needed are x and y, and a fraction `test` in the experiment; "
                "or x_train, y_train, x_test and y_test, and no fraction `test`"
            )
        if official:
            _check_samples(path, arrays["x_train"])
            _check_samples(path, arrays["x_test"], arrays["x_train"].shape[1:])
            pairs = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
            x = np.concatenate([samples for samples, _ in pairs])
            labels = np.concatenate([read_labels(path, y, len(samples)) for samples, y in pairs])
            n_test = len(pairs[1][0])
        else:
            x, labels = arrays["x"], arrays["y"]
    _check_samples(path, x)
    classes, y = _number(read_labels(path, labels, len(x)).tolist(), path)
    x = _cast(path, x)
    return build_dataset(data.name, Prepared(classes, ArrayPreprocessing(), x, y), split_rows(y, data, n_test, classes))


def _number(labels: Sequence[object], path: Path) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Sort the classes and number them; give the classes and the labels' numbers, (n,) int64.

    Raises PymlError if there are fewer than two classes.
    """
    found = sorted(set(labels))  # type: ignore[type-var]  # all strings, or all integers
    if len(found) < 2:
        raise PymlError(f"{path} holds labels of {len(found)} classes; two or more are needed")
    number = {label: index for index, label in enumerate(found)}
    return tuple(map(str, found)), np.array([number[label] for label in labels], np.int64)


def _check_samples(path: Path, x: Array, shape: tuple[int, ...] | None = None) -> None:
    """Raise PymlError unless the samples are not empty and have shape (n, ...), or (n, *shape) if shape is given."""
    if not 2 <= x.ndim <= 9 or 0 in x.shape or (shape is not None and x.shape[1:] != shape):
        raise PymlError(
            f"{path} holds samples {x.dtype} {x.shape}; numbers of shape (n, ...) are needed, the same shape for all"
        )


def _cast(path: Path, x: Array) -> Array:
    """Cast samples to a dtype that a model takes. Raises PymlError, ArraysError."""
    cast = cast_samples(path, x)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise PymlError(f"{path} holds samples that are not finite (NaN or infinity)")
    if x.dtype != cast.dtype:
        log.info("%s: %s is converted to %s", path, x.dtype, cast.dtype)
    return cast
