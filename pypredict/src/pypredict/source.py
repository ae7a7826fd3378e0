"""Where inputs come from: a bundle's held-out set, array files, images, texts; prepared as the model's manifest says.

Everything is read in chunks, so a source may be larger than memory (an .npz or .npy is read whole).
"""

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.files import IMAGE_SUFFIXES, list_images, read_texts
from bundle.manifest import HOLDOUT_FILE, VOCABULARY_FILE, Manifest
from bundle.preprocessing import (
    ImagePreprocessing,
    PreprocessingError,
    TextPreprocessing,
    prepare_image,
    prepare_text,
    read_vocabulary,
    token_numbers,
)
from bundle.verify import Bundle
from pypredict import PypredictError
from pypredict.chunk import Chunk, cut, inputs_per_chunk
from pypredict.codec import Array

log = logging.getLogger(__name__)


class SourceError(PypredictError):
    """A source is missing or holds something else than was promised."""


@dataclass(frozen=True)
class Preparation:
    """How inputs of a data set are prepared: its model's manifest, and the words of its vocabulary (texts only)."""

    manifest: Manifest
    words: Sequence[str] = ()


@dataclass(frozen=True)
class TextColumns:
    """The columns of a CSV file of texts; without a label column the texts are unlabelled."""

    text: str = "text"
    label: str | None = None


def read_holdout(bundle: Bundle) -> Iterator[Chunk]:
    """Cut a bundle's held-out test set into chunks. Raises SourceError when it is not what the manifest says."""
    manifest, path = bundle.manifest, bundle.path / HOLDOUT_FILE
    arrays, labels = _load(path)
    if labels is None or labels.dtype.kind not in "iu":
        raise SourceError(f"{path} holds no y with class numbers; publish the bundle again")
    n, wanted = manifest.metrics.n, manifest.input
    if arrays.dtype != wanted.dtype or arrays.shape != (n, *wanted.shape) or labels.shape != (n,):
        raise SourceError(
            f"{path} holds x {arrays.dtype} {arrays.shape} and y {labels.shape}, the manifest says {wanted.dtype} "
            f"{(n, *wanted.shape)} and {(n,)}; publish the bundle again"
        )
    if labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise SourceError(
            f"{path} holds labels from {labels.min()} to {labels.max()}, the manifest says "
            f"{len(manifest.classes)} classes; publish the bundle again"
        )
    yield from cut(
        arrays,
        labels.astype(np.int32),
        classes=manifest.classes,
        dataset=manifest.dataset,
        prep_sha256=manifest.prep_sha256,
        source=f"held-out set of {manifest.bundle_id}",
    )


def read_words(bundle: Bundle) -> list[str]:
    """Read a bundle's vocabulary by token number; empty when it takes no texts. Raises BundleError."""
    preprocessing = bundle.manifest.preprocessing
    if not isinstance(preprocessing, TextPreprocessing):
        return []
    return read_vocabulary(bundle.path / VOCABULARY_FILE, preprocessing)


def read_source(path: Path, how: Preparation, columns: TextColumns) -> Iterator[Chunk]:
    """Read a file or folder as the chunks of how's data set. Raises SourceError or a BundleError naming the place."""
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
        raise SourceError(f"{path} does not exist; give a bundle, a folder, an image, .npy, .npz or .csv file")
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return _read_images(path, how)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path, how, columns)
    if suffix in (".npy", ".npz"):
        return _read_arrays(path, how)
    raise SourceError(f"{path} is of no kind that can be read; give a bundle, a folder, an image, .npy, .npz or .csv")


def prepare_texts(texts: Sequence[str], how: Preparation) -> Array:
    """Prepare texts as (n, length) int32. Raises SourceError when the data set's model takes something else."""
    preprocessing = how.manifest.preprocessing
    if not isinstance(preprocessing, TextPreprocessing):
        raise SourceError(f"data set {how.manifest.dataset} takes no texts: its model wants {how.manifest.input}")
    numbers = token_numbers(how.words)
    return np.stack([prepare_text(text, preprocessing, numbers) for text in texts])


def _read_arrays(path: Path, how: Preparation) -> Iterator[Chunk]:
    """Read x and, when there, y (numbers into the model's classes, or class names) from .npz; x alone from .npy."""
    arrays, labels = _load(path)
    wanted = how.manifest.input
    if arrays.dtype.newbyteorder("=") != wanted.dtype or arrays.shape[1:] != wanted.shape or not len(arrays):
        raise SourceError(
            f"{path} holds {arrays.dtype} {arrays.shape}; data set {how.manifest.dataset} takes {wanted} "
            "each; cast or reshape it"
        )
    classes, numbers = None, None
    if labels is not None:
        if labels.shape != arrays.shape[:1]:
            raise SourceError(f"{path} holds {len(arrays)} arrays and y {labels.shape}; one label each is needed")
        classes, numbers = _number_labels(path, labels, how.manifest.classes)
    manifest = how.manifest
    yield from cut(
        arrays,
        numbers,
        classes=classes,
        dataset=manifest.dataset,
        prep_sha256=manifest.prep_sha256,
        source=str(path),
    )


def _load(path: Path) -> tuple[Array, Array | None]:
    """Read x and, when there, y of an .npz; the array of an .npy as x. Raises SourceError whatever is wrong inside."""
    is_archive = path.suffix.lower() == ".npz"
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray) is is_archive:
                raise ValueError(f"its content is that of {'.npy' if is_archive else '.npz'}, by which it has to end")
            found = (loaded["x"], loaded.get("y")) if is_archive else (loaded, None)
        if not all(array is None or isinstance(array, np.ndarray) for array in found):
            raise ValueError("a member is no .npy file")
    except Exception as error:  # numpy, zipfile and zlib raise what they like over a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(
            f"{path} is not an array file with plain numbers, x in an .npz ({reason}); save it again with numpy"
        ) from error
    return found


def _number_labels(
    path: Path, labels: Array, classes: tuple[str, ...]
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """Number the labels (n,), n > 0: as they are, or, where they are names, by the names that are there."""
    if labels.dtype.kind in "iu":
        if labels.min() < 0 or labels.max() >= len(classes):
            raise SourceError(
                f"{path} holds labels up to {labels.max()}; the model's {len(classes)} classes count from 0"
            )
        return classes, labels.astype(np.int32)
    if labels.dtype.kind == "U":
        names, numbers = np.unique(labels, return_inverse=True)
        return tuple(map(str, names)), numbers.astype(np.int32)
    raise SourceError(f"{path} holds y {labels.dtype}; class numbers or class names are needed")


def _read_images(path: Path, how: Preparation) -> Iterator[Chunk]:
    preprocessing = how.manifest.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise SourceError(f"data set {how.manifest.dataset} takes no images: its model wants {how.manifest.input}")
    images = list_images(path) if path.is_dir() else [(path, None)]
    classes = tuple(sorted({label for _, label in images if label is not None})) or None
    step = inputs_per_chunk(int(np.prod(preprocessing.shape)))
    skipped = 0
    prepared: list[tuple[Array, str | None]] = []
    first_row = 0
    for file, label in images:
        try:
            prepared.append((prepare_image(file, preprocessing), label))
        except PreprocessingError as error:
            skipped += 1
            log.warning("skipped: %s", error)
        if len(prepared) == step:
            yield _chunk(prepared, classes, first_row, str(path), how)
            prepared, first_row = [], first_row + step
    if prepared:
        yield _chunk(prepared, classes, first_row, str(path), how)
    elif not first_row:
        raise SourceError(f"{path}: none of {len(images)} images could be read; nothing was loaded")
    if skipped:
        log.warning("%s: %d of %d images were skipped", path, skipped, len(images))


def _read_csv(path: Path, how: Preparation, columns: TextColumns) -> Iterator[Chunk]:
    classes = None
    if columns.label is not None:  # a first pass over the labels alone: every chunk needs the whole list
        classes = tuple(sorted({row.label for row in read_texts(path, columns.text, columns.label) if row.label}))
    rows = read_texts(path, columns.text, columns.label)
    step = inputs_per_chunk(4 * int(np.prod(how.manifest.input.shape)))
    for first_row in itertools.count(step=step):
        part = list(itertools.islice(rows, step))
        if not part and not first_row:
            raise SourceError(f"{path} holds no text; a header and at least one row are needed")
        if not part:
            return
        arrays = prepare_texts([row.text for row in part], how)
        prepared = [(array, row.label) for array, row in zip(arrays, part, strict=True)]
        yield _chunk(prepared, classes, first_row, str(path), how)


def _chunk(
    prepared: list[tuple[Array, str | None]],
    classes: tuple[str, ...] | None,
    first_row: int,
    source: str,
    how: Preparation,
) -> Chunk:
    arrays = np.stack([array for array, _ in prepared])
    labels = None
    if classes is not None:
        labels = np.array([classes.index(label) for _, label in prepared if label is not None], np.int32)
    return Chunk(
        dataset=how.manifest.dataset,
        prep_sha256=how.manifest.prep_sha256,
        first_row=first_row,
        arrays=arrays,
        labels=labels,
        classes=classes,
        source=source,
    )
