"""Read folders of images and CSV files of texts, in the same way for training and serving."""

import csv
import io
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bundle import BundleError
from bundle.messages import list_names, shorten
from bundle.regular_file import open_regular

# The formats that may be opened, by their names in Pillow; each with its suffixes.
IMAGE_FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
MAX_CLASS_NAME = 255  # characters of a label or a class; a folder's name has at most so many bytes
MAX_ROW_CHARACTERS = 16 * 2**20
csv.field_size_limit(MAX_ROW_CHARACTERS)


class FilesError(BundleError):
    """A file or folder is missing or has the wrong structure; str() names the place."""


@dataclass(frozen=True)
class TextRow:
    """One row of a CSV file: its line (from 1), its text, and its label when there is a label column."""

    line: int
    text: str
    label: str | None


def readable_name(name: str) -> str:
    """Convert a name to valid UTF-8; a byte that is not UTF-8, or is part of half a character, becomes \\xNN."""
    try:
        content = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character that stands for no byte of a file's name
        content = name.encode("utf-8", "surrogatepass")
    return content.decode("utf-8", "backslashreplace")


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
    for path in folder.iterdir():  # what is no regular file is refused, and named, when it is opened
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            yield path


def read_utf8(path: Path, max_bytes: int) -> str:
    """Read a UTF-8 text file, with or without a byte order mark. Raises FilesError, also when it is larger."""
    try:
        with open_regular(path) as file:
            content = file.read(max_bytes + 1)
        if len(content) <= max_bytes:
            return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise FilesError(f"{path} cannot be read ({reason}); a UTF-8 text file is needed") from error
    raise FilesError(f"{path} is larger than {max_bytes} bytes")


def read_texts(path: Path, text_column: str, label_column: str | None) -> Iterator[TextRow]:
    """Read a CSV file with a header, in UTF-8 with or without a byte order mark. Empty lines are skipped.

    Raises FilesError. It names the column that is missing or appears twice, or the line that is not UTF-8, has no text
    or no label, has a label over MAX_CLASS_NAME, has more values than the header has columns, has quotes that do not
    match, or is part of a row over MAX_ROW_CHARACTERS.
    """
    with _csv_reader(path) as reader:
        for column in (text_column, label_column):
            _check_column(path, column, list(reader.fieldnames or []))
        for row in reader:
            place = f"{path}, line {reader.line}"
            text, label = row[text_column], row[label_column] if label_column else None
            if not (text or "").strip() or (label_column and not (label or "").strip()):
                raise FilesError(f"{place}: the text or the label is empty or missing")
            if None in row:
                raise FilesError(f"{place}: more values than the header has columns; quote texts that hold commas")
            if label and len(label) > MAX_CLASS_NAME:
                raise FilesError(
                    f"{place}: the label {shorten(label)!r} has {len(label)} characters, at most {MAX_CLASS_NAME} are "
                    "possible; is it the column of the labels?"
                )
            _check_utf8(place, (text, label or ""))
            yield TextRow(reader.line, text, label)


def csv_columns(path: Path) -> list[str]:
    """Read the header of a CSV file. Raises FilesError."""
    with _csv_reader(path) as reader:
        return list(reader.fieldnames or [])


@contextmanager
def _csv_reader(path: Path) -> Iterator["_Rows"]:
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8-sig", "surrogateescape", newline="") as file:
            reader = _Rows(file, path)
            try:
                yield reader
            except csv.Error as error:
                first, last = reader.line + 1, reader.last_line
                place = f"line {last}" if first == last else f"lines {first} to {last}"
                raise FilesError(
                    f"{path}, {place}: the quotes do not match ({error}); write each quote inside a quoted text twice, "
                    "and nothing but a comma after the last quote"
                ) from error
    except OSError as error:
        raise FilesError(f"{path} cannot be read ({error.strerror}); a CSV file with a header is needed") from error


class _Rows(csv.DictReader):  # type: ignore[type-arg]  # it takes no type argument before Python 3.12
    """The rows of a CSV file with a header. Raises FilesError at a row over MAX_ROW_CHARACTERS.

    The rows are read strictly: two texts that begin with an unbalanced quote would otherwise become one, with all rows
    between them. The header is not: _check_column explains "text";"label" better. line: the last line of the row;
    last_line: of all that was read.
    """

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path, self._size, self.last_line = file, path, 0, 0
        lines = self._lines()
        super().__init__(lines, next(csv.reader(lines), []), strict=True)
        self.line = self.last_line

    def __next__(self) -> dict[str | Any, str | Any]:
        self._size = 0
        row = super().__next__()
        self.line = self.last_line
        return row

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(MAX_ROW_CHARACTERS + 1 - self._size):
            self._size += len(line)
            if self._size > MAX_ROW_CHARACTERS:
                raise FilesError(
                    f"{self._path}, line {self.last_line + 1}: the row has over {MAX_ROW_CHARACTERS} characters; "
                    "is it a CSV file, and is each quote closed?"
                )
            self.last_line += 1
            yield line


def _check_utf8(place: str, values: Iterable[str]) -> None:
    if any("\udc80" <= letter <= "\udcff" for value in values for letter in value):
        raise FilesError(f"{place}: not UTF-8; convert the file, e.g. with iconv")


def _check_column(path: Path, column: str | None, columns: list[str]) -> None:
    """Refuse a header without the column, or with two of it. For tabs or semicolons, give a command to convert it."""
    if column is None or (count := columns.count(column)) == 1:
        return
    if count:
        raise FilesError(f"{path} has {count} columns {column!r}, one is needed; rename or remove the others")
    _check_utf8(f"{path}, line 1", columns)
    for delimiter, name in (("\t", "tabs"), (";", "semicolons")):
        if any(delimiter in header for header in columns):
            file = "open(sys.argv[1], encoding='utf-8-sig', newline='')"
            program = f"csv.writer(sys.stdout).writerows(csv.reader({file}, delimiter={delimiter!r}))"
            raise FilesError(
                f"{path} is separated by {name}, commas are needed; convert it: "
                f'python3 -X utf8 -c "import csv, sys; {program}" {shlex.quote(str(path))} > '
                + shlex.quote(f"{path.with_suffix('')}-commas.csv")
            )
    raise FilesError(
        f"{path} has no column {column!r}; its header names {list_names(columns) or 'none'}; name another one with "
        "--text-column and --label-column of pypredict load, or text_column and label_column of the experiment"
    )
