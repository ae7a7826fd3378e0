"""Build and parse whole chunks as streams of PostgreSQL's binary COPY format, without a Python loop over the rows.

The format (PostgreSQL manual, "COPY", "Binary Format"; every integer big-endian):

    stream  = "PGCOPY\\n\\xff\\r\\n\\0" int32 flags=0 int32 extension=0   row*   int16 -1
    row     = int16 number of fields, then for each field: int32 length (-1 for NULL), that many bytes

All rows of a chunk have the same size, so the rows are one numpy structured array with the bytes above as its fields.
The streams in this module:

    ml.input (chunk_id int8, sample_no int4, label_no int4 or NULL, payload bytea)        written
    (input_id int8, payload bytea)                                                        read
    ml.prediction (model_id int8, input_id int8, in_training bool or NULL, class_no int4, score float4, probs float4[])
                                                                                          written

float4[] on the wire: int32 dimensions=1, int32 has-null=0, int32 element type 700, int32 length, int32 lower bound 1,
then for each element int32 4 and the float.
"""

import math
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pypredict.codec import DTYPES, MAX_PAYLOAD_BYTES, Array, bounded_header, npy_header

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
FLOAT4_OID = 700
BLOCK_BYTES = 128 * 2**10  # size of one block of a stream: it fits into the processor's cache


def input_stream(chunk_id: int, arrays: Array, labels: npt.NDArray[np.int32] | None) -> Iterator[bytes]:
    """Build the COPY stream of one chunk of ml.input, block by block, so that the server can read while we build.

    arrays: (n, ...) in a dtype of the codec. labels: (n,) numbers into chunk.classes, or None. Raises CodecError.
    """
    name = arrays.dtype.newbyteorder("=").name
    header = bounded_header(name, arrays.shape[1:])
    element_bytes = math.prod(arrays.shape[1:]) * arrays.dtype.itemsize
    row = [("fields", ">i2"), ("n1", ">i4"), ("chunk_id", ">i8"), ("n2", ">i4"), ("sample_no", ">i4"), ("n3", ">i4")]
    row += [("label_no", ">i4")] if labels is not None else []
    row += [("n4", ">i4"), ("header", f"V{len(header)}"), ("data", f"V{element_bytes}")]
    block = np.empty(max(1, BLOCK_BYTES // np.dtype(row).itemsize), row)
    block["fields"], block["n1"], block["n2"], block["n4"] = 4, 8, 4, len(header) + element_bytes
    block["n3"] = -1 if labels is None else 4
    block["chunk_id"], block["header"] = chunk_id, np.void(header)
    return _input_blocks(block, arrays, labels)


def _input_blocks(block: npt.NDArray[np.void], arrays: Array, labels: npt.NDArray[np.int32] | None) -> Iterator[bytes]:
    yield SIGNATURE
    for start in range(0, len(arrays), len(block)):
        data = np.ascontiguousarray(arrays[start : start + len(block)], arrays.dtype.newbyteorder("<"))
        rows = block[: len(data)]
        rows["sample_no"] = np.arange(start, start + len(data))
        if labels is not None:
            rows["label_no"] = labels[start : start + len(data)]
        rows["data"] = data.reshape(len(data), -1).view(rows["data"].dtype)[:, 0]
        yield rows.tobytes()
    yield TRAILER


def prediction_stream(
    model_id: int,
    input_ids: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    in_training: npt.NDArray[np.bool_] | None,
) -> bytearray:
    """Build the COPY stream of one job of ml.prediction. class_no is the most probable class, score its probability.

    input_ids: (n,). probabilities: (n, k) float32. in_training: (n,), or None when it was not computed.
    """
    k = probabilities.shape[1]
    array = np.dtype([(name, ">i4") for name in ("dims", "nulls", "oid", "length", "lower")])
    element = np.dtype([("n", ">i4"), ("value", ">f4")])
    row = [("fields", ">i2"), ("n1", ">i4"), ("model_id", ">i8"), ("n2", ">i4"), ("input_id", ">i8"), ("n3", ">i4")]
    row += [("in_training", "?")] if in_training is not None else []
    row += [("n4", ">i4"), ("class_no", ">i4"), ("n5", ">i4"), ("score", ">f4"), ("n6", ">i4")]
    stream, rows = _allocate(np.dtype([*row, ("array", array), ("probs", element, (k,))]), len(input_ids))
    rows["fields"], rows["n1"], rows["n2"], rows["n4"], rows["n5"] = 6, 8, 8, 4, 4
    rows["n3"] = -1 if in_training is None else 1
    rows["n6"] = array.itemsize + k * element.itemsize
    if in_training is not None:
        rows["in_training"] = in_training
    rows["model_id"], rows["input_id"] = model_id, input_ids
    rows["class_no"], rows["score"] = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rows["array"] = (1, 0, FLOAT4_OID, k, 1)
    rows["probs"]["n"], rows["probs"]["value"] = 4, probabilities
    return stream


def parse_inputs(
    stream: bytes | bytearray | memoryview, dtype: str, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], Array] | None:
    """Parse (input_id, payload) rows if all payloads have this dtype and shape; return None if one of them differs.

    Returns input_ids (n,) int64 and arrays (n, *shape), a view of the stream. Its rows are not contiguous; the caller
    copies them when it splits them for the model.
    """
    header = npy_header(dtype, shape)
    if math.prod(shape) > MAX_PAYLOAD_BYTES:  # larger than any payload, and than any numpy dtype
        return None
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("n1", ">i4"),
            ("input_id", ">i8"),
            ("n2", ">i4"),
            ("header", np.uint8, len(header)),
            ("data", DTYPES[dtype], shape),
        ]
    )
    n, rest = divmod(len(stream) - len(SIGNATURE) - len(TRAILER), row.itemsize)
    if rest or n < 0:
        return None
    rows = np.frombuffer(stream, row, count=n, offset=len(SIGNATURE))
    payload_bytes = row["header"].itemsize + row["data"].itemsize
    alike = (rows["fields"] == 2) & (rows["n1"] == 8) & (rows["n2"] == payload_bytes)
    if not (alike.all() and (rows["header"] == np.frombuffer(header, np.uint8)).all()):
        return None
    return rows["input_id"].astype(np.int64), rows["data"]


def iterate_inputs(stream: bytes | bytearray | memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield (input_id, payload or None) row by row: slower, for a chunk that parse_inputs cannot parse.

    Raises struct.error for a stream that is cut off. The server sends whole streams.
    """
    view = memoryview(stream)
    offset = len(SIGNATURE)
    while struct.unpack_from(">h", view, offset) != (-1,):
        _, _, input_id, length = struct.unpack_from(">hiqi", view, offset)
        offset += 18
        yield input_id, None if length == -1 else view[offset : offset + length]
        offset += max(0, length)


def _allocate(row: np.dtype[np.void], n: int) -> tuple[bytearray, npt.NDArray[np.void]]:
    stream = bytearray(len(SIGNATURE) + n * row.itemsize + len(TRAILER))
    stream[: len(SIGNATURE)] = SIGNATURE
    stream[-len(TRAILER) :] = TRAILER
    return stream, np.frombuffer(stream, row, count=n, offset=len(SIGNATURE))
