"""Say that the disk is full, where a library raises an error that speaks of something else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyml import PymlError

FULL_BYTES = 2**20  # a disk with less free space is full: the smallest file of a model needs some of it


@contextmanager
def explain_full_disk(directory: Path) -> Iterator[None]:
    """Raise PymlError for any error of the block, if the disk of the directory is full after it."""
    try:
        yield
    except Exception as error:  # HDF5 and TensorFlow raise errors of many kinds
        if shutil.disk_usage(directory).free >= FULL_BYTES:
            raise
        raise PymlError(f"the disk of {directory} is full, so the model cannot be written; make room") from error
