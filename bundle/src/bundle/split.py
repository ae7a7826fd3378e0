"""`split.csv`: the part of each sample (train, validation or test), and its source.

    part,sample,label,source,sha256
    train,0,cat,cat/001.jpg,9f86d081884c...
    ...

part: train, validation or test. sample: counts from 0 within the part (for test: the row of test_set.npz). source: a
file, a line or a row. sha256: content_sha256 of the prepared array, as hexadecimal text.
"""

import csv
import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.csv_rows import write_rows
from bundle.manifest import SPLIT_FILE
from bundle.verify import Bundle

MAX_LINE = 2**16  # characters; the names of a path's folders have at most 4,096 bytes
COLUMNS = ["part", "sample", "label", "source", "sha256"]


class SplitRow(NamedTuple):
    """One sample of a split."""

    part: str
    sample: int
    label: str
    source: str
    sha256: str


def content_sha256(sample: npt.NDArray[np.generic]) -> bytes:
    """Hash the elements of one prepared array, in C order and little-endian; the manifest has dtype and shape."""
    return hashlib.sha256(np.ascontiguousarray(sample).data).digest()


def write_split(path: Path, rows: Iterable[SplitRow]) -> None:
    """Write split.csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, itertools.chain([COLUMNS], rows))


def read_split(bundle: Bundle) -> Iterator[SplitRow]:
    """Read a bundle's split.csv row by row. Raises BundleError, which names the line with the wrong format."""
    line = 1
    try:
        rows = csv.reader(_lines(bundle.read(SPLIT_FILE)))
        if next(rows, None) != COLUMNS:
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        for row in rows:
            line = rows.line_num
            part, sample, label, source, sha256 = row
            if len(bytes.fromhex(sha256)) != hashlib.sha256().digest_size:
                raise ValueError("its last value is not a sha256")
            if "\0" in label or "\0" in source:
                raise ValueError("it holds a NUL character")
            yield SplitRow(part, int(sample), label, source, sha256)
    except (ValueError, csv.Error) as error:
        path = bundle.path / SPLIT_FILE
        raise BundleError(f"{path}, line {line}: not a readable split ({error}); publish it again") from error


def _lines(content: bytes) -> Iterator[str]:
    """Decode the lines of a file. Raises ValueError for a line so long that its values would fill the memory."""
    for line in io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""):
        if len(line) > MAX_LINE:
            raise ValueError(f"a line has more than {MAX_LINE} characters")
        yield line
