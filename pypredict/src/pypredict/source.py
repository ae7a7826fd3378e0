"""Read inputs from a bundle's test set, array files, images or texts, and prepare them as the manifest says.

Sources are read in chunks, so a source may be larger than memory. Only .npz and .npy files are read whole.
"""

import functools
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bundle.inputs.arrays import Array, read_npy, read_npz, stack_samples
from bundle.inputs.files import (
    IMAGE_SUFFIXES,
    FilesError,
    csv_columns,
    list_images,
    read_texts,
    read_utf8,
    readable_name,
)
from bundle.inputs.preprocessing import (
    ImagePreprocessing,
    PreprocessingError,
    TextPreprocessing,
    prepare_image,
    prepare_text,
    token_numbers,
    words_of,
)
from bundle.manifest import SPLIT_FILE, Manifest
from bundle.messages import list_names
from bundle.split import read_split
from bundle.test_set import read_test_set
from bundle.verify import Bundle
from bundle.vocabulary import read_vocabulary
from pypredict import PypredictError
from pypredict.chunk import Chunk, Identity, cut, inputs_per_chunk
from pypredict.labels import Labelling

log = logging.getLogger(__name__)

FILE_SUFFIXES = IMAGE_SUFFIXES | {".csv", ".tsv", ".txt", ".npy", ".npz", ".json", ".md", ".html", ".pdf", ".zip"}
KINDS = "a bundle, a folder, or an image, .npy, .npz, .csv or .txt file"
MAX_TEXT_BYTES = 16 * 2**20
MAX_LABELS = 100_000  # of a CSV file; they are compared with the classes before the first text is stored

Row = tuple[Array, str | None, str]  # a prepared input, its label, its name


class SourceError(PypredictError):
    """A source is missing or has the wrong content."""


@dataclass(frozen=True)
class Preparation:
    """The preparation of a dataset's inputs: its model's manifest, and all words of the vocabulary (texts only)."""

    manifest: Manifest
    words: Sequence[str] = ()

    @property
    def identity(self) -> Identity:
        """The dataset and the hash of the preparation, as a chunk has them."""
        return {"dataset": self.manifest.dataset, "prep_sha256": self.manifest.prep_sha256}

    @functools.cached_property
    def token_numbers(self) -> Mapping[str, int]:
        """The number of each word."""
        return token_numbers(self.words)


@dataclass(frozen=True)
class TextColumns:
    """The columns of a CSV file of texts; without a label column, the texts have no labels."""

    text: str = "text"
    label: str | None = None


def cut_test_set(bundle: Bundle) -> Iterator[Chunk]:
    """Cut a bundle's test set into chunks. Raises SourceError or BundleError when it differs from the manifest."""
    manifest = bundle.manifest
    x, y = read_test_set(bundle)
    yield from cut(
        x,
        y.astype(np.int32),
        classes=manifest.classes,
        **Preparation(manifest).identity,
        source=f"test set of {manifest.bundle_id}",
        names=_read_test_names(bundle),
    )


def read_words(bundle: Bundle) -> list[str]:
    """Read the words that have a token number, in that order; empty for a model without texts. Raises BundleError."""
    preprocessing = bundle.manifest.preprocessing
    if not isinstance(preprocessing, TextPreprocessing):
        return []
    return read_vocabulary(bundle)[: preprocessing.n_words]


def read_source(
    path: Path, how: Preparation, columns: TextColumns, labelling: Labelling | None = None
) -> Iterator[Chunk]:
    """Read a file or folder as chunks of the dataset of `how`. Labels must be classes of its model; see Labelling.

    All labels are checked before the first chunk is yielded. Raises SourceError, LabelError or BundleError, which name
    the place.
    """
    labelling = labelling or Labelling()
    suffix = path.suffix.lower()
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
        raise SourceError(f"{readable_name(str(path))} does not exist; give {KINDS}")
    if path.is_dir() or suffix in IMAGE_SUFFIXES:
        return _read_images(path, how, labelling)
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, how, columns, labelling)
    if suffix == ".txt":
        return _read_text(path, how)
    if suffix in (".npy", ".npz"):
        return _read_arrays(path, how, labelling)
    raise SourceError(f"{path} has an unknown file type; give {KINDS}")


def prepare_texts(texts: Sequence[str], how: Preparation) -> Array:
    """Prepare texts as (n, length) int32. Raises SourceError when the dataset's model does not take texts."""
    preprocessing = how.manifest.preprocessing
    if not isinstance(preprocessing, TextPreprocessing):
        raise SourceError(f"dataset {how.manifest.dataset} takes no texts: its model needs {how.manifest.input}")
    return np.stack([prepare_text(text, preprocessing, how.token_numbers) for text in texts])


def text_chunk(text: str, how: Preparation, source: str, name: str | None = None) -> Chunk:
    """Prepare one text as a chunk with one input. Raises SourceError when the text has no word."""
    if not words_of(text):
        raise SourceError(f"{name or f'the text {text[:40]!r}'} holds no word; give a text with words")
    return Chunk(
        **how.identity,
        first_row=0,
        arrays=prepare_texts([text], how),
        labels=None,
        classes=None,
        source=source,
        names=None if name is None else (name,),
    )


def _read_test_names(bundle: Bundle) -> list[str]:
    """Read the source of each test sample from split.csv. Raises SourceError, BundleError."""
    path, n = bundle.path / SPLIT_FILE, bundle.manifest.metrics.n
    rows = [row for row in read_split(bundle) if row.part == "test"]
    if [row.sample for row in rows] != list(range(n)):
        raise SourceError(f"{path} names {len(rows)} test samples, the manifest says {n}; publish the bundle again")
    return [row.source for row in rows]


def _read_arrays(path: Path, how: Preparation, labelling: Labelling) -> Iterator[Chunk]:
    """Read x and, if present, y from an .npz file; read x from an .npy file."""
    if path.suffix.lower() == ".npy":
        x, y = read_npy(path), None
    else:
        found = read_npz(path, ("x", "y"))
        if "x" not in found:
            raise SourceError(
                f"{path} holds {list_names(read_npz(path)) or 'nothing'}; x is needed, and y for labels: "
                f"np.savez({path.name!r}, x=..., y=...)"
            )
        x, y = found["x"], found.get("y")
    arrays = stack_samples(path, x, how.manifest.input)
    numbers = None if y is None else labelling.array_class_numbers(y, len(arrays), how.manifest.classes, path)
    yield from cut(
        arrays,
        numbers,
        classes=None if numbers is None else how.manifest.classes,
        **how.identity,
        source=readable_name(str(path)),
    )


def _read_images(path: Path, how: Preparation, labelling: Labelling) -> Iterator[Chunk]:
    preprocessing = how.manifest.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise SourceError(_refuse_images(how.manifest))
    images = list_images(path) if path.is_dir() else [(path, None)]
    folder = path if path.is_dir() else path.parent
    labels = {label for _, label in images if label is not None}
    numbers = labelling.class_numbers(labels, how.manifest.classes, path)

    def rows() -> Iterator[Row]:
        skipped = 0
        for file, label in images:
            try:
                array = prepare_image(file, preprocessing)
            except PreprocessingError as error:
                if not path.is_dir():
                    raise SourceError(str(error)) from error
                skipped += 1
                log.warning("skipped: %s", error)
                continue
            yield array, label, readable_name(file.relative_to(folder).as_posix())
        if skipped == len(images):
            raise SourceError(f"{path}: none of {len(images)} images could be read; nothing was loaded")
        if skipped:
            log.warning("%s: %d of %d images were skipped", path, skipped, len(images))

    return _gather(rows(), inputs_per_chunk(int(np.prod(preprocessing.shape))), path, how, numbers)


def _read_csv(path: Path, how: Preparation, columns: TextColumns, labelling: Labelling) -> Iterator[Chunk]:
    label_column = None if labelling.ignore else columns.label
    labels: set[str] = set()
    if label_column is not None:  # read the labels first, to check that all are classes
        labels = _read_labels(path, columns)
    elif not labelling.ignore and "label" in csv_columns(path):
        log.warning("%s: the column label is ignored; --label-column label loads the labels", path)
    numbers = labelling.class_numbers(labels, how.manifest.classes, path)

    def rows() -> Iterator[Row]:
        empty = True
        for row in read_texts(path, columns.text, label_column):
            empty = False
            yield prepare_texts([row.text], how)[0], row.label, f"line {row.line}"
        if empty:
            raise SourceError(f"{path} holds no text; a header and at least one row are needed")

    step = inputs_per_chunk(4 * int(np.prod(how.manifest.input.shape)))
    return _gather(rows(), step, path, how, numbers)


def _read_labels(path: Path, columns: TextColumns) -> set[str]:
    """Read the different labels of a CSV file. Raises SourceError when they are too many to be classes."""
    labels: set[str] = set()
    for row in read_texts(path, columns.text, columns.label):
        labels.add(row.label or "")
        if len(labels) > MAX_LABELS:
            raise SourceError(
                f"{path} holds over {MAX_LABELS} different labels in the column {columns.label!r}; give the column of "
                "the classes, or --ignore-labels"
            )
    return labels


def _gather(
    rows: Iterator[Row], step: int, path: Path, how: Preparation, numbers: Mapping[str, int] | None
) -> Iterator[Chunk]:
    """Make chunks of `step` rows each. numbers: the class number of each label; None: without labels."""
    for first_row in itertools.count(step=step):
        part = list(itertools.islice(rows, step))
        if not part:
            return
        arrays, labels, names = zip(*part, strict=True)
        yield Chunk(
            **how.identity,
            first_row=first_row,
            arrays=np.stack(arrays),
            labels=None if numbers is None else np.array([numbers[label] for label in labels], np.int32),
            classes=None if numbers is None else how.manifest.classes,
            source=readable_name(str(path)),
            names=names,
        )


def _read_text(path: Path, how: Preparation) -> Iterator[Chunk]:
    """Read a .txt file as one text."""
    try:
        text = read_utf8(path, MAX_TEXT_BYTES)
    except FilesError as error:
        raise SourceError(f"{error}; a .txt file is one text, a .csv file holds one text per row") from error
    yield text_chunk(text, how, readable_name(str(path)), readable_name(path.name))


def _refuse_images(manifest: Manifest) -> str:
    """Say why an image file is refused, and how to convert it to an array."""
    refused = f"dataset {manifest.dataset} takes no image files: its model needs {manifest.input}"
    if isinstance(manifest.preprocessing, TextPreprocessing):
        return f"{refused}, made from texts"
    shape = manifest.input.shape
    if len(shape) < 2 or shape[2:] not in ((), (1,), (3,)):
        return f"{refused}, as an .npy or .npz file"
    return (
        f"{refused}; convert it to an .npy file of this shape, with values as in training (docs/own-data.md has an "
        "example), or train on the image files, as kind image-folder"
    )
