"""Encode one array as the bytes of a `.npy` file, version 1.0 (NEP 1), and decode such bytes strictly.

    offset  bytes     content
    0       6         \\x93NUMPY
    6       2         version 1, 0
    8       2         length H of the header text, little-endian
    10      H         ASCII Python dict {'descr', 'fortran_order', 'shape'}, padded with spaces, ends in a newline;
                      10 + H is a multiple of 64
    10 + H  n         the elements: little-endian, C order, n = product(shape) * itemsize

`np.save` writes the same bytes, so every library that reads `.npy` files can read a payload. `np.load` does not read
payloads here: it allocates the size that a forged header declares, and it ignores trailing bytes. Only the dtypes in
DTYPES are written. The caller casts bool and other numbers, because only the caller knows their range.
"""

import ast
import functools
import math
import struct

import numpy as np
import numpy.typing as npt

from pypredict import PypredictError

Array = npt.NDArray[np.generic]

MAGIC = b"\x93NUMPY\x01\x00"
MAX_HEADER_BYTES = 1_000
MAX_PAYLOAD_BYTES = 64 * 2**20  # the schema has a CHECK with the same limit; larger BYTEA values fail in dumps
MAX_DIMENSIONS = 8
DTYPES = {"uint8": "|u1", "int32": "<i4", "float32": "<f4"}  # name in chunk.dtype -> descr in the header


class CodecError(PypredictError):
    """Bytes are not a valid payload, or an array cannot be encoded."""


def encode(array: Array) -> bytes:
    """Encode one array as `.npy` bytes: little-endian, C order.

    array: dtype of DTYPES in any byte order, at least one dimension and one element. Raises CodecError.
    """
    name = array.dtype.newbyteorder("=").name
    if name not in DTYPES or np.ma.isMaskedArray(array):
        raise CodecError(f"dtype {array.dtype} cannot be stored; cast to one of {', '.join(DTYPES)}")
    return bounded_header(name, array.shape) + np.ascontiguousarray(array, DTYPES[name]).tobytes()


def bounded_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Build the header of an array to store, as npy_header does. Also raises CodecError for a too large array."""
    n = payload_bytes(dtype, shape)
    if n > MAX_PAYLOAD_BYTES:
        raise CodecError(f"an array of {n} bytes is too large; the limit is {MAX_PAYLOAD_BYTES}, store smaller arrays")
    return npy_header(dtype, shape)


@functools.lru_cache(maxsize=256)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Build the bytes before the elements, as `np.save` does. Raises CodecError for an empty or 0-d shape."""
    if dtype not in DTYPES:
        raise CodecError(f"dtype {dtype} cannot be stored; cast to one of {', '.join(DTYPES)}")
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
        raise CodecError(f"shape {shape} cannot be stored; 1 to {MAX_DIMENSIONS} dimensions of at least 1 are needed")
    text = f"{{'descr': '{DTYPES[dtype]}', 'fortran_order': False, 'shape': {shape!r}, }}".encode("ascii")
    padding = -(len(MAGIC) + 2 + len(text) + 1) % 64
    text += b" " * padding + b"\n"
    return MAGIC + struct.pack("<H", len(text)) + text


def payload_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the size in bytes of the payload of an array with this dtype (of DTYPES) and shape. Raises CodecError."""
    return len(npy_header(dtype, shape)) + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize


def decode(payload: bytes | memoryview) -> Array:
    """Decode `.npy` bytes as a read-only array over the same memory.

    The length is compared with the header before anything is allocated. Raises CodecError.
    """
    payload = memoryview(payload)
    dtype, shape, start = read_header(payload)
    descr = np.dtype(DTYPES[dtype])
    want = math.prod(shape) * descr.itemsize
    if len(payload) - start != want:
        raise CodecError(f"dtype {dtype} and shape {shape} need {want} bytes, the payload holds {len(payload) - start}")
    return np.frombuffer(payload, descr, offset=start).reshape(shape)


def read_header(payload: bytes | memoryview) -> tuple[str, tuple[int, ...], int]:
    """Read dtype name, shape and the offset of the elements. Raises CodecError."""
    if bytes(payload[:8]) != MAGIC:
        raise CodecError(
            f"the payload starts with {bytes(payload[:8])!r}; a payload starts with {MAGIC!r} (.npy version 1.0)"
        )
    length = int.from_bytes(payload[8:10], "little")
    if length > MAX_HEADER_BYTES or len(payload) < 10 + length:
        raise CodecError(
            f"the header declares {length} bytes; the payload must hold them, and the limit is {MAX_HEADER_BYTES}"
        )
    dtype, shape = _parse_header(bytes(payload[10 : 10 + length]))
    return dtype, shape, 10 + length


@functools.lru_cache(maxsize=256)
def _parse_header(text: bytes) -> tuple[str, tuple[int, ...]]:
    try:
        line = text.decode("ascii").strip(" \n")
        if not line.isprintable():  # np.load refuses some control characters
            raise ValueError("a control character")
        header = ast.literal_eval(line)
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        well_formed = len(header) == 3 and isinstance(shape, tuple) and all(type(n) is int and n >= 1 for n in shape)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise CodecError(f"the header is not a .npy dictionary: {text[:80]!r}") from error
    names = [name for name, known in DTYPES.items() if known == descr]
    if not well_formed or fortran is not False or not names or not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise CodecError(
            f"the header {text[:80]!r} is not C order with a dtype of {', '.join(DTYPES)} and a plain shape"
        )
    return names[0], shape
