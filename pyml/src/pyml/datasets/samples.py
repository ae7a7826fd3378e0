"""Prepared samples: an array in memory, or, if that is too large, a file whose rows are read when they are needed.

Both have the same interface: a slice or row numbers give the same array.
"""

import math
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from pyml import PymlError

RowSelection = slice | npt.NDArray[np.int64]
PART_BYTES = 16 * 2**20  # bytes that `parts` reads at once


class StoredSamples:
    """Samples in a temporary file: all its rows, or a selection; (n, *sample shape).

    The file has no name, so the system removes it when the process ends.
    """

    def __init__(
        self, file: IO[bytes], dtype: npt.DTypeLike, sample_shape: tuple[int, ...], rows: npt.NDArray[np.int64]
    ) -> None:
        self.dtype: np.dtype[np.generic] = np.dtype(dtype)
        self.shape = (len(rows), *sample_shape)
        self._file, self._rows = file, rows
        self._row_bytes = int(np.prod(sample_shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._rows)

    def __getitem__(self, rows: RowSelection) -> npt.NDArray[np.generic]:
        """Read the samples of a slice or of row numbers into memory."""
        wanted = self._rows[rows]
        array = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        size = self._row_bytes
        for sample, row in zip(array, wanted, strict=True):
            if os.preadv(self._file.fileno(), [memoryview(sample).cast("B")], int(row) * size) != size:
                raise PymlError(f"sample {row} cannot be read back from the prepared samples; is the disk damaged?")
        return array

    def select(self, rows: npt.NDArray[np.int64]) -> "StoredSamples":
        """Select samples by row numbers. They stay in the file."""
        return StoredSamples(self._file, self.dtype, self.shape[1:], self._rows[rows])


Samples = npt.NDArray[np.generic] | StoredSamples


def store_samples(
    prepared: Iterable[npt.NDArray[np.uint8]], shape: tuple[int, ...], *, memory_bytes: int, directory: Path
) -> Samples:
    """Collect prepared images: in memory if an array of this shape (n, ...) fits, else in a file in the directory.

    There can be fewer images than n. Raises PymlError if the directory cannot hold them.
    """
    size = math.prod(shape)
    n = 0
    if size <= memory_bytes:
        array = np.empty(shape, np.uint8)
        for sample in prepared:
            array[n] = sample
            n += 1
        return array[:n]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # open as long as the samples are used
        for sample in prepared:
            file.write(sample.tobytes())
            n += 1
        file.flush()
    except OSError as error:
        raise PymlError(
            f"{directory} cannot hold the prepared samples, up to {size:,} bytes ({error.strerror})"
        ) from error
    return StoredSamples(file, np.uint8, shape[1:], np.arange(n))


def select(samples: Samples, rows: npt.NDArray[np.int64]) -> Samples:
    """Select samples by row numbers, in the order of the numbers."""
    return samples.select(rows) if isinstance(samples, StoredSamples) else samples[rows]


def parts(samples: Samples) -> Iterator[npt.NDArray[np.generic]]:
    """Give all samples in arrays of at most PART_BYTES (at least one sample)."""
    step = max(1, PART_BYTES // max(1, math.prod(samples.shape[1:]) * samples.dtype.itemsize))
    for start in range(0, len(samples), step):
        yield np.ascontiguousarray(samples[start : start + step])


def save_npz(path: Path, **arrays: Samples) -> None:
    """Write the same file as `np.savez_compressed`, without all samples in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for part in parts(array):
                    entry.write(part.tobytes())
