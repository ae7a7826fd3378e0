"""Read folders of images and CSV files of texts, in the same way for training and serving."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
csv.field_size_limit(16 * 2**20)


class FilesError(BundleError):
    """A file or folder is missing or has the wrong structure; str() names the place."""


@dataclass(frozen=True)
class TextRow:
    """One row of a CSV file: its line (from 1), its text, and its label when there is a label column."""

    line: int
    text: str
    label: str | None


def readable_name(name: str) -> str:
    """Convert a file's name to valid UTF-8; a byte that is not UTF-8 becomes \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def list_images(folder: Path) -> list[tuple[Path, str | None]]:
    """List the images of a folder, sorted. The names of sub-folders are the labels.

    When no sub-folder holds an image, list the images of the folder itself, without labels. Files without an image
    suffix, hidden files and folders, and images beside labelled sub-folders are left out. Raises FilesError when there
    is no image, or when images are only in sub-folders of sub-folders (train/cat, test/cat).
    """
    if not folder.is_dir():
        raise FilesError(f"{folder} is not a folder; a folder of images, or of one sub-folder per class, is needed")
    labelled = [(path, path.parent.name) for sub in _folders(folder) for path in _images(sub)]
    images: list[tuple[Path, str | None]] = [*labelled] or [(path, None) for path in _images(folder)]
    if not images:
        _check_depth(folder)
        raise FilesError(f"{folder} holds no image; files ending in {', '.join(sorted(IMAGE_SUFFIXES))} are needed")
    return sorted(images, key=lambda image: image[0])


def _check_depth(folder: Path) -> None:
    """Raise FilesError when the class folders are one level too deep, and name the folder to give instead."""
    deep = [sub for parent in sorted(_folders(folder)) for sub in _folders(parent) if any(_images(sub))]
    if deep:
        parents = " or ".join(map(str, dict.fromkeys(sub.parent for sub in deep)))
        raise FilesError(
            f"{folder} holds images only one level below its sub-folders, for example in {deep[0]}; the sub-folders "
            f"must be the classes: give {parents}, or move all class folders into one folder"
        )


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def read_texts(path: Path, text_column: str, label_column: str | None) -> Iterator[TextRow]:
    """Read a CSV file with a header, in UTF-8 with or without a byte order mark. Empty lines are skipped.

    Raises FilesError. It names the missing column, or the line that is not UTF-8, has no text or no label, or has more
    values than the header has columns.
    """
    with _csv_reader(path) as reader:
        for column in (text_column, label_column):
            _check_column(path, column, list(reader.fieldnames or []))
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            text, label = row[text_column], row[label_column] if label_column else None
            if not (text or "").strip() or (label_column and not label):
                raise FilesError(f"{place}: the text or the label is empty or missing")
            if None in row:
                raise FilesError(f"{place}: more values than the header has columns; quote texts that hold commas")
            for value in (text, label or ""):
                if any("\udc80" <= letter <= "\udcff" for letter in value):
                    raise FilesError(f"{place}: not UTF-8; convert the file, e.g. with iconv")
            yield TextRow(reader.line_num, text, label)


def csv_columns(path: Path) -> list[str]:
    """Read the header of a CSV file. Raises FilesError."""
    with _csv_reader(path) as reader:
        return list(reader.fieldnames or [])


@contextmanager
def _csv_reader(path: Path) -> Iterator["csv.DictReader[str]"]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            try:
                yield reader
            except csv.Error as error:
                raise FilesError(f"{path}, line {reader.line_num}: {error}") from error
    except OSError as error:
        raise FilesError(f"{path} cannot be read ({error.strerror}); a CSV file with a header is needed") from error


def _check_column(path: Path, column: str | None, columns: list[str]) -> None:
    """Refuse a header without the column. For a file separated by tabs or semicolons, give a command to convert it."""
    if column is None or column in columns:
        return
    for delimiter, name in (("\t", "tabs"), (";", "semicolons")):
        if any(delimiter in header for header in columns):
            program = f"csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter={delimiter!r}))"
            raise FilesError(
                f"{path} is separated by {name}, commas are needed; convert it: "
                f'python3 -c "import csv, sys; {program}" < {path} > {path.with_suffix("")}-commas.csv'
            )
    raise FilesError(f"{path} has no column {column!r}; its header names {', '.join(columns) or 'none'}")
