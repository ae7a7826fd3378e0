"""What people have on disk: folders of images and CSV files of texts, read the same way for training and serving."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
csv.field_size_limit(16 * 2**20)


class FilesError(BundleError):
    """A file or folder is missing or not laid out as needed; str() names the place."""


@dataclass(frozen=True)
class TextRow:
    """One row of a CSV file: where it stands (line, from 1), the text, and the label when there is a label column."""

    line: int
    text: str
    label: str | None


def list_images(folder: Path) -> list[tuple[Path, str | None]]:
    """List the images of a folder, sorted: with sub-folders as labels, or, when no sub-folder holds any, unlabelled.

    Anything that does not end like an image, hidden files and folders, and images beside labelled sub-folders are left
    out. Raises FilesError when there is no image at all.
    """
    if not folder.is_dir():
        raise FilesError(f"{folder} is not a folder; a folder of images, or of one sub-folder per class, is needed")
    labelled = [(path, path.parent.name) for sub in _folders(folder) for path in _images(sub)]
    images: list[tuple[Path, str | None]] = [*labelled] or [(path, None) for path in _images(folder)]
    if not images:
        raise FilesError(f"{folder} holds no image; files ending in {', '.join(sorted(IMAGE_SUFFIXES))} are looked for")
    return sorted(images, key=lambda image: image[0])


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def read_texts(path: Path, text_column: str, label_column: str | None) -> Iterator[TextRow]:
    """Read a CSV file with a header, UTF-8 with or without a byte order mark; empty lines are skipped.

    Raises FilesError naming the line that is not UTF-8, has no text or label, or the column that is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            for column in (text_column, label_column):
                if column is not None and column not in columns:
                    raise FilesError(
                        f"{path} has no column {column!r}; its header names {', '.join(columns) or 'none'}"
                    )
            for row in reader:
                text, label = row[text_column], row[label_column] if label_column else None
                if not text or (label_column and not label):
                    raise FilesError(f"{path}, line {reader.line_num}: the text or the label is empty or missing")
                for value in (text, label or ""):
                    if any("\udc80" <= letter <= "\udcff" for letter in value):
                        raise FilesError(
                            f"{path}, line {reader.line_num}: not UTF-8; convert the file, e.g. with iconv"
                        )
                yield TextRow(reader.line_num, text, label)
    except OSError as error:
        raise FilesError(f"{path} cannot be read ({error.strerror}); a CSV file with a header is needed") from error
    except csv.Error as error:
        raise FilesError(f"{path}, line {reader.line_num}: {error}") from error
