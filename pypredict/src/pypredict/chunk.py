"""A chunk: a fixed set of inputs with the same preparation, and the unit of work.

The content hash of a chunk covers the prepared arrays, labels and classes. So equal content is the same chunk, even
from another file.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from pypredict.codec import Array

CHUNK_INPUTS = 1_000
CHUNK_BYTES = 8 * 2**20  # small, so that one chunk is hashed while another one is sent


class Identity(TypedDict):
    """Which models predict a chunk: those of its dataset that have the same preparation."""

    dataset: str
    prep_sha256: str


@dataclass(frozen=True)
class Chunk:
    """Inputs that are loaded in one transaction and predicted as one job.

    first_row: position of the first input in its source. arrays: (n, ...) raw. labels: (n,) int32 numbers into classes;
    without labels, labels and classes are None. names: the name of each input; None: its row in the source.
    """

    dataset: str
    prep_sha256: str
    first_row: int
    arrays: Array
    labels: npt.NDArray[np.int32] | None
    classes: tuple[str, ...] | None
    source: str
    names: tuple[str, ...] | None = None

    def name_of(self, sample_no: int) -> str:
        """Return the name of an input within its source, in the same form as split.csv."""
        return f"row {self.first_row + sample_no}" if self.names is None else self.names[sample_no]

    @functools.cached_property
    def content_sha256(self) -> bytes:
        """Hash of dtype, shape, classes, elements and labels."""
        head = [self.arrays.dtype.str, self.arrays.shape, self.classes]
        digest = hashlib.sha256(json.dumps(head).encode())
        digest.update(np.ascontiguousarray(self.arrays).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<i4").data)
        return digest.digest()


def inputs_per_chunk(input_bytes: int) -> int:
    """Return how many inputs of this size fit into a chunk: at most 1,000 inputs and 8 MiB."""
    return max(1, min(CHUNK_INPUTS, CHUNK_BYTES // max(1, input_bytes)))


def cut(
    arrays: Array,
    labels: npt.NDArray[np.int32] | None,
    *,
    classes: tuple[str, ...] | None,
    dataset: str,
    prep_sha256: str,
    source: str,
    names: Sequence[str] | None = None,
) -> Iterator[Chunk]:
    """Cut arrays (n, ...), labels (n,) and names (n,) into chunks of at most 1,000 inputs and 8 MiB."""
    step = inputs_per_chunk(arrays[:1].nbytes)
    for start in range(0, len(arrays), step):
        part = slice(start, start + step)
        yield Chunk(
            dataset=dataset,
            prep_sha256=prep_sha256,
            first_row=start,
            arrays=arrays[part],
            labels=None if labels is None else labels[part],
            classes=classes,
            source=source,
            names=None if names is None else tuple(names[part]),
        )
