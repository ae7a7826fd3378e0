"""Where inputs come from: arrays with labels, prepared as the model's manifest says, cut into chunks.

A chunk's content hash is over the prepared arrays, labels and classes, so the same content is the same chunk whatever
file it came from.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.manifest import HOLDOUT_FILE
from bundle.verify import Bundle
from pypredict import PypredictError
from pypredict.codec import Array

CHUNK_INPUTS = 1_000
CHUNK_BYTES = 32 * 2**20


class SourceError(PypredictError):
    """A source is missing or holds something else than was promised."""


@dataclass(frozen=True)
class Chunk:
    """Inputs that are loaded in one transaction and predicted as one batch.

    arrays: (n, ...) raw; labels: (n,) int32 numbers into classes, or None when unlabelled (classes is None, too).
    """

    dataset: str
    prep_sha256: str
    chunk_no: int
    arrays: Array
    labels: npt.NDArray[np.int32] | None
    classes: tuple[str, ...] | None
    source: str

    @property
    def content_sha256(self) -> bytes:
        """Hash of what is stored: dtype, shape, classes, elements, labels."""
        head = [self.arrays.dtype.str, self.arrays.shape, self.classes]
        digest = hashlib.sha256(json.dumps(head).encode())
        digest.update(np.ascontiguousarray(self.arrays).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<i4").data)
        return digest.digest()


def read_holdout(bundle: Bundle) -> Iterator[Chunk]:
    """Cut a bundle's held-out test set into chunks. Raises SourceError when it is not what the manifest says."""
    manifest, path = bundle.manifest, bundle.path / HOLDOUT_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays, labels = file["x"], file["y"]
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{path} does not hold the arrays x and y ({error}); publish the bundle again") from error
    if arrays.dtype != manifest.input.dtype or arrays.shape[1:] != manifest.input.shape or len(arrays) != len(labels):
        raise SourceError(
            f"{path} holds x {arrays.dtype} {arrays.shape} and y {labels.shape}, "
            f"the manifest says {manifest.input.dtype} (n, {', '.join(map(str, manifest.input.shape))})"
        )
    if len(labels) != manifest.metrics.n or labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise SourceError(
            f"{path} holds {len(labels)} labels from {labels.min()} to {labels.max()}, not the manifest's"
        )
    yield from cut(
        arrays,
        labels.astype(np.int32),
        classes=manifest.classes,
        dataset=manifest.dataset,
        prep_sha256=manifest.prep_sha256,
        source=f"held-out set of {manifest.bundle_id}",
    )


def cut(
    arrays: Array,
    labels: npt.NDArray[np.int32] | None,
    *,
    classes: tuple[str, ...] | None,
    dataset: str,
    prep_sha256: str,
    source: str,
) -> Iterator[Chunk]:
    """Cut arrays (n, ...) and labels (n,) into chunks of at most 1,000 inputs and 32 MiB."""
    step = max(1, min(CHUNK_INPUTS, CHUNK_BYTES // max(1, arrays[:1].nbytes)))
    for chunk_no, start in enumerate(range(0, len(arrays), step)):
        part = slice(start, start + step)
        numbers = None if labels is None else labels[part]
        yield Chunk(dataset, prep_sha256, chunk_no, arrays[part], numbers, classes, source)
