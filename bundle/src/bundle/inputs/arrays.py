"""Read array files without pickle, and convert their samples and labels.

Samples become uint8, int32 or float32. A cast keeps every value, except that float64 is rounded to float32. A model
accepts one sample or a stack of samples. For a model with one channel, the last axis may be missing.

The arrays of one file may need up to 1 GiB of memory. What a header declares is compared with the size of the file
before memory is allocated.

Labels become one label for each sample, (n,). Names stay names (str). Whole numbers of any dtype, bool and one-hot rows
become numbers (int64). A label column (n, 1) becomes (n,).
"""

import math
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.inputs.files import MAX_CLASS_NAME
from bundle.manifest import InputSpec
from bundle.messages import one_line, shorten
from bundle.regular_file import open_regular

Array = npt.NDArray[np.generic]

MAX_ARRAY_BYTES = 2**30  # of the arrays of one file: a cast needs two to three times as much memory
NUMPY_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the header of an LZMA member can ask for gigabytes
MAX_MEMBERS_BYTES = 2**20  # of the list of an .npz file's members

# The dtypes that an array file may have -> the dtype that the samples get when no model names another one.
CASTS = {
    "uint8": "uint8",
    "int32": "int32",
    "float32": "float32",
    "bool": "uint8",
    "float16": "float32",
    "float64": "float32",
    "int8": "int32",
    "int16": "int32",
    "uint16": "int32",
    "uint32": "int32",
    "int64": "int32",
    "uint64": "int32",
}
# The smallest and the largest whole number that a dtype holds exactly.
WHOLE_NUMBERS = {"uint8": (0, 2**8 - 1), "int32": (-(2**31), 2**31 - 1), "float32": (-(2**24), 2**24)}
MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}
LABELS_NEEDED = "one whole number or name for each sample is needed, (n,), (n, 1) or one-hot (n, classes)"


class ArraysError(BundleError):
    """An array file, its samples or its labels are refused; str() names the file and says what is needed."""


def read_npy(path: Path) -> Array:
    """Read the array of an .npy file, (n, ...) or of any other shape. Raises ArraysError."""
    found: Array = _read(path, ".npy", lambda file: _read_array(file, os.fstat(file.fileno()).st_size))
    return found


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Read all arrays of an .npz file, or only those with one of the names. Raises ArraysError."""
    found: dict[str, Array] = _read(path, ".npz", lambda file: _read_members(file, names))
    return found


def npz_names(path: Path) -> list[str]:
    """List the names of the arrays of an .npz file, without reading an array. Raises ArraysError."""
    found: list[str] = _read(path, ".npz", _member_names)
    return found


def read_npy_header(file: IO[bytes]) -> tuple["np.dtype[np.generic]", tuple[int, ...], bool]:
    """Read the header of a .npy file: dtype, shape, and whether the order is that of Fortran. Raises ValueError."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read:
        raise ValueError(f"version {version} of the .npy format is not known")
    shape, in_columns, dtype = read[version](file)
    return dtype, shape, in_columns


def cast_samples(path: Path, x: Array, wanted: str | None = None) -> Array:
    """Cast samples of any shape to a dtype (uint8, int32 or float32; default: see CASTS), in C order and native.

    Raises ArraysError when x does not hold plain numbers, or when the dtype cannot hold its numbers.
    """
    found = x.dtype.name
    if found not in CASTS:
        raise ArraysError(f"{path} holds samples {x.dtype} {x.shape}; plain numbers are needed: {', '.join(CASTS)}")
    wanted = wanted or CASTS[found]
    if found != wanted and x.size:
        _check_values(path, x, wanted)
    return np.ascontiguousarray(x, np.dtype(wanted).newbyteorder("="))


def stack_samples(path: Path, x: Array, wanted: InputSpec) -> Array:
    """Reshape one sample or a stack of samples to (n, *wanted.shape), n > 0, in wanted's dtype. Raises ArraysError."""
    shapes = [wanted.shape]
    if wanted.shape[-1] == 1 and len(wanted.shape) > 1:
        shapes.append(wanted.shape[:-1])  # the axis of a single channel may be missing
    for shape in shapes:
        n = 1 if x.shape == shape else len(x) if x.shape[1:] == shape else 0
        if n:
            return cast_samples(path, x, wanted.dtype).reshape(n, *wanted.shape)
    without = ", with or without its last axis" if len(shapes) > 1 else ""
    stack = f"(n, {', '.join(map(str, wanted.shape))})"
    raise ArraysError(
        f"{path} holds {x.dtype} {x.shape}; one sample {wanted.shape} or a stack {stack}{without} is needed, "
        f"{wanted.dtype}"
    )


def read_labels(path: Path, y: Array, n: int) -> Array:
    """Convert the labels of n samples to (n,) str or int64. Raises ArraysError, which says what is needed."""
    holds = f"{path} holds {n} samples and labels {y.dtype} {y.shape}"
    if y.ndim not in (1, 2) or len(y) != n or 0 in y.shape or y.dtype.kind not in "biufU":
        raise ArraysError(f"{holds}; {LABELS_NEEDED}")
    values: Any = y
    if y.ndim == 2 and y.shape[1] > 1:
        one_hot = y.dtype.kind != "U" and ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()
        if not one_hot:
            raise ArraysError(f"{holds}, whose rows are not one-hot; {LABELS_NEEDED}")
        numbers: Array = values.argmax(axis=1)
        return numbers
    if y.dtype.kind == "U":
        letters = np.frombuffer(np.ascontiguousarray(y, y.dtype.newbyteorder("=")), np.uint32)
        if (letters > sys.maxunicode).any():  # np.load reads any 32 bits as a character
            raise ArraysError(f"{holds} with characters that are not Unicode; {LABELS_NEEDED}")
        longest = int(np.strings.str_len(values).max())
        if longest > MAX_CLASS_NAME:
            raise ArraysError(f"{holds}, one with {longest} characters; a label has at most {MAX_CLASS_NAME}")
        return y.reshape(n)
    if y.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.trunc(values)).all()):
        raise ArraysError(
            f"{holds}, which are not whole numbers: this looks like regression, which is not supported; {LABELS_NEEDED}"
        )
    if int(values.max()) >= 2**63 or int(values.min()) < -(2**63):
        raise ArraysError(f"{holds} up to {values.max()}, which is too large; {LABELS_NEEDED}")
    return y.astype(np.int64).reshape(n)


def _read(path: Path, suffix: str, read: Callable[[IO[bytes]], Any]) -> Any:
    """Open a file, and read it without pickle. Every problem of the file becomes one ArraysError."""
    try:
        with open_regular(path) as file:
            start = file.read(8)
            found = next((kind for kind, magic in MAGIC.items() if start.startswith(magic)), "another kind of file")
            if found != suffix:
                raise ValueError(f"its content is {found}")
            return read(file)
    except MemoryError as error:
        raise ArraysError(
            f"{path} cannot be read: there is too little memory for its arrays; free some memory, or split the file"
        ) from error
    except Exception as error:  # numpy, zipfile and zlib raise many classes of errors for a broken file
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ArraysError(
            f"{path} is not a {suffix} file of plain numbers or names ({reason}); save it again with numpy"
        ) from error


def _member_names(file: IO[bytes]) -> list[str]:
    with zipfile.ZipFile(_ShortReads(file)) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _read_members(file: IO[bytes], names: Sequence[str] | None) -> dict[str, Array]:
    with zipfile.ZipFile(_ShortReads(file)) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = {name: info for name, info in members.items() if names is None or name in names}
        _check_size(sum(info.file_size for info in wanted.values()))
        arrays = {}
        for name, info in wanted.items():
            if info.compress_type not in NUMPY_COMPRESSIONS:
                raise ValueError(f"its member {shorten(name)} is not compressed by numpy")
            with archive.open(info) as member:
                arrays[name] = _read_array(member, info.file_size)
    return arrays


def _read_array(file: IO[bytes], size: int) -> Array:
    """Read an array from the start of a file of size bytes, after its header agrees with the size."""
    file.seek(0)
    dtype, shape, _ = read_npy_header(file)
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (min(shape, default=0) < 0 or declared > size - file.tell()):
        raise ValueError(f"its header declares {dtype} {shape}, {declared} bytes; it holds {size - file.tell()}")
    _check_size(declared)
    file.seek(0)
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"its arrays need {n_bytes} bytes of memory, at most {MAX_ARRAY_BYTES} are read: split it")


class _ShortReads:
    """A file for zipfile, which reads its list of members at once: a list over 1 MiB is refused."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read at most size bytes. Raises ValueError when size is over 1 MiB."""
        if size > MAX_MEMBERS_BYTES:
            raise ValueError(f"its list of members has {size} bytes, at most {MAX_MEMBERS_BYTES} are read")
        return self._file.read(size)


def _check_values(path: Path, x: Array, wanted: str) -> None:
    """Refuse values that the wanted dtype cannot hold. A cast must not change a whole number."""
    values: Any = x
    holds = f"{path} holds samples {x.dtype} {x.shape}"
    if x.dtype.kind == "f" and wanted == "float32":
        limit = np.finfo(np.float32).max
        if x.dtype.itemsize > 4 and ((np.abs(values) > limit) & np.isfinite(values)).any():
            raise ArraysError(f"{holds} with values that do not fit into float32; rescale the values")
        return
    first, last = WHOLE_NUMBERS[wanted]
    if x.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.trunc(values)).all()):
        raise ArraysError(
            f"{holds} with values that are not whole numbers; {wanted} is needed, {first} to {last}, as in training"
        )
    low, high = int(values.min()), int(values.max())
    if low < first or high > last:
        raise ArraysError(
            f"{holds} from {low} to {high}, which do not fit into {wanted}; whole numbers from {first} to {last} fit"
        )
