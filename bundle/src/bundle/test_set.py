"""`test_set.npz`: the samples x (n, ...) of the test set, and their labels y (n,), numbers into the classes.

The manifest says how large both are. The headers in the file are compared with it before the data are decompressed,
because a small file can declare any size, and decompress to it.
"""

import io
import math
import zipfile
from typing import IO

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.inputs.arrays import NUMPY_COMPRESSIONS, Array, read_npy_header
from bundle.manifest import TEST_SET_FILE
from bundle.messages import one_line
from bundle.verify import Bundle

MAX_MEMBERS = 16  # of the archive; it needs two
DIRECTORY_ENTRY = b"PK\x01\x02"  # begins the entry of a member in the archive's directory
BLOCK_BYTES = 2**20


class _DifferentError(Exception):
    """The content is readable, but not what the manifest says; str() names both."""


def read_test_set(bundle: Bundle) -> tuple[Array, npt.NDArray[np.int64]]:
    """Read x (n, ...) in the input's dtype and y (n,). Raises BundleError when they differ from the manifest."""
    manifest, path = bundle.manifest, bundle.path / TEST_SET_FILE
    n, n_classes = manifest.metrics.n, len(manifest.classes)
    content = bundle.read(TEST_SET_FILE)
    try:
        if content.count(DIRECTORY_ENTRY) > MAX_MEMBERS:
            raise ValueError("it has too many members")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            x = _read_array(archive, "x", manifest.input.dtype, (n, *manifest.input.shape))
            y = _read_array(archive, "y", "integer", (n,)).astype(np.int64)
        if y.min() < 0 or y.max() >= n_classes:
            raise _DifferentError(f"labels from {y.min()} to {y.max()}, the manifest says {n_classes} classes")
    except _DifferentError as error:
        raise BundleError(f"{path} holds {error}; publish the bundle again") from error
    except Exception as error:  # zipfile, zlib and numpy raise many classes of errors for a broken file
        raise BundleError(
            f"{path} is not a .npz file of x and y ({one_line(error)}); publish the bundle again"
        ) from error
    return x, y


def _read_array(archive: zipfile.ZipFile, name: str, kind: str, shape: tuple[int, ...]) -> Array:
    """Read an array of this dtype (or of any integer dtype) and shape, in C order."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in NUMPY_COMPRESSIONS:
        raise ValueError("it is not compressed with deflate")
    with archive.open(member) as file:
        dtype, found, in_columns = read_npy_header(file)
        fits = dtype.kind in "iu" if kind == "integer" else dtype == np.dtype(kind)
        if not fits or found != shape:
            raise _DifferentError(f"{name} {dtype} {found}, the manifest says {kind} {shape}")
        data = _read_data(file, math.prod(shape) * dtype.itemsize)
    return np.ascontiguousarray(data.view(dtype).reshape(shape, order="F" if in_columns else "C"))


def _read_data(file: IO[bytes], n_bytes: int) -> npt.NDArray[np.uint8]:
    """Read the rest of a file, which must have this size."""
    data, filled = np.empty(n_bytes, np.uint8), 0
    while block := file.read(BLOCK_BYTES):
        if filled + len(block) > n_bytes:
            break
        data[filled : filled + len(block)] = np.frombuffer(block, np.uint8)
        filled += len(block)
    if filled < n_bytes or block:
        raise ValueError(f"an array does not have the {n_bytes} bytes of its header")
    return data
