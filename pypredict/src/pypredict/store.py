"""All SQL about chunks and their inputs: store them, and read them again.

The caller owns the transaction: functions take a connection and never commit. Rows are sent and read as binary COPY
(`binary_copy`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from bundle.inputs.files import MAX_CLASS_NAME
from bundle.messages import shorten
from pypredict import PypredictError
from pypredict.binary_copy import input_stream, iterate_inputs, parse_inputs
from pypredict.chunk import Chunk
from pypredict.codec import Array, CodecError, decode, payload_bytes

MAX_CHUNK_BYTES = 256 * 2**20  # a worker holds three chunks in memory: one read, one predicted, one written
MAX_NAME = 4096  # characters of the name of an input or a source, as long as a path
READ_TIMES = 4  # a payload up to this many times too large is still read, to name its exact error

ADD_CHUNK = sa.text("""
    INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, classes, source, content_sha256)
    VALUES (:dataset, :prep_sha256, :first_row, :n_inputs, :dtype, :shape, :classes, :source, :content_sha256)
    ON CONFLICT (dataset, prep_sha256, content_sha256) DO NOTHING
    RETURNING chunk_id""")
FIND_CHUNK = sa.text("""
    SELECT chunk_id FROM ml.chunk
    WHERE dataset = :dataset AND prep_sha256 = :prep_sha256 AND content_sha256 = :content_sha256""")
ADD_NAMES = sa.text("""
    INSERT INTO ml.input_name (chunk_id, sample_no, name)
    SELECT :chunk_id, n - 1, name FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS given (name, n)""")
LIST_INPUTS = sa.text("SELECT input_id FROM ml.input WHERE chunk_id = :chunk_id")


class StoreError(PypredictError):
    """The database does not hold what this step needs, or cannot store what it got."""


@dataclass(frozen=True)
class StoredChunk:
    """What the database says about a chunk: its number, the number of its inputs, dtype and shape of one input."""

    chunk_id: int
    n_inputs: int
    dtype: str
    shape: tuple[int, ...]
    labelled: bool


@dataclass(frozen=True)
class InputError:
    """The reason why one input has no prediction; `reason` is one of the schema's codes."""

    input_id: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Inputs:
    """A chunk that was read: the valid rows as arrays (n, ...), the others as errors."""

    input_ids: npt.NDArray[np.int64]
    arrays: Array
    errors: list[InputError]

    def keep(self, good: npt.NDArray[np.bool_], reason: str, detail: str) -> "Inputs":
        """Return only the rows that are good (n,); the other rows become errors."""
        if good.all():
            return self
        errors = [InputError(int(input_id), reason, detail) for input_id in self.input_ids[~good]]
        return Inputs(self.input_ids[good], self.arrays[good], self.errors + errors)


def load_chunk(connection: sa.Connection, chunk: Chunk) -> tuple[int, bool]:
    """Store a chunk and its inputs once; return its number and whether it is new. Raises CodecError, StoreError."""
    _check_names(chunk)
    key = {
        "dataset": chunk.dataset,
        "prep_sha256": bytes.fromhex(chunk.prep_sha256),
        "content_sha256": chunk.content_sha256,
    }
    row = key | {
        "first_row": chunk.first_row,
        "n_inputs": len(chunk.arrays),
        "dtype": chunk.arrays.dtype.name,
        "shape": list(chunk.arrays.shape[1:]),
        "classes": None if chunk.classes is None else list(chunk.classes),
        "source": chunk.source,
    }
    try:
        new = connection.execute(ADD_CHUNK, row).scalar()
        if new is None:
            return int(connection.execute(FIND_CHUNK, key).scalar_one()), False
        statement = "COPY ml.input (chunk_id, sample_no, label_no, payload) FROM STDIN (FORMAT binary)"
        copy_cursor(connection).copy_expert(statement, _Blocks(input_stream(int(new), chunk.arrays, chunk.labels)))
        if chunk.names is not None:
            connection.execute(ADD_NAMES, {"chunk_id": new, "names": list(chunk.names)})
    except ValueError as error:  # psycopg2: a string with a NUL byte
        raise StoreError(
            f"{chunk.source}: a class name, an input's name or the source name cannot be stored: {error}"
        ) from error
    return int(new), True


def _check_names(chunk: Chunk) -> None:
    """Refuse names that are too long, in a sentence; the schema refuses them, too."""
    for name in (chunk.source, *(chunk.names or ())):
        if len(name) > MAX_NAME:
            raise StoreError(f"the name {shorten(name)} has {len(name)} characters, at most {MAX_NAME} are stored")
    for name in chunk.classes or ():
        if len(name) > MAX_CLASS_NAME:
            raise StoreError(
                f"the class {shorten(name)} has {len(name)} characters, at most {MAX_CLASS_NAME} are stored"
            )


def read_inputs(connection: sa.Connection, chunk: StoredChunk) -> Inputs:
    """Read the inputs of a chunk. An invalid payload becomes an error of its input, not an exception.

    A chunk over MAX_CHUNK_BYTES is not read, and a payload over READ_TIMES times its declared size is not read: these
    inputs become `too_large`. Raises StoreError when the chunk has another number of inputs than it declares.
    """
    declared = chunk.n_inputs * payload_bytes(chunk.dtype, chunk.shape)
    inputs = _read(connection, chunk) if declared <= MAX_CHUNK_BYTES else _refuse(connection, chunk, declared)
    held = len(inputs.input_ids) + len(inputs.errors)
    if held != chunk.n_inputs:
        found = "more" if held > chunk.n_inputs else held
        raise StoreError(
            f"chunk {chunk.chunk_id} declares {chunk.n_inputs} inputs and holds {found}; "
            "insert a chunk and its inputs in one transaction"
        )
    return inputs


def _read(connection: sa.Connection, chunk: StoredChunk) -> Inputs:
    stream = _Stream()
    limit = READ_TIMES * payload_bytes(chunk.dtype, chunk.shape)
    query = (
        f"SELECT input_id, CASE WHEN octet_length(payload) <= {limit:d} THEN payload END FROM ml.input"  # noqa: S608
        f" WHERE chunk_id = {chunk.chunk_id:d} ORDER BY sample_no"
        f" LIMIT {chunk.n_inputs + 1:d}"  # one more, to notice too many inputs
    )
    copy_cursor(connection).copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", stream)
    content = stream.content
    parsed = parse_inputs(content, chunk.dtype, chunk.shape)
    if parsed is not None:
        input_ids, parsed_arrays = parsed
        return Inputs(input_ids, parsed_arrays, errors=[])
    good: list[tuple[int, Array]] = []
    errors: list[InputError] = []
    for input_id, payload in iterate_inputs(content):
        if payload is None:
            detail = f"the payload is over {limit} bytes, {READ_TIMES} times the size that its chunk declares"
            errors.append(InputError(input_id, "too_large", detail))
            continue
        try:
            array = decode(payload)
        except CodecError as error:
            errors.append(InputError(input_id, "corrupt", str(error)))
            continue
        if array.dtype != chunk.dtype or array.shape != chunk.shape:
            reason = "wrong_dtype" if array.dtype != chunk.dtype else "wrong_shape"
            detail = f"the payload is {array.dtype} {array.shape}, its chunk declares {chunk.dtype} {chunk.shape}"
            errors.append(InputError(input_id, reason, detail))
        else:
            good.append((input_id, array))
    arrays = np.stack([array for _, array in good]) if good else np.empty((0, *chunk.shape), chunk.dtype)
    return Inputs(np.array([input_id for input_id, _ in good], np.int64), arrays, errors)


def _refuse(connection: sa.Connection, chunk: StoredChunk, declared: int) -> Inputs:
    detail = f"its chunk has {declared} bytes, over the limit of {MAX_CHUNK_BYTES}; store it as smaller chunks"
    ids = connection.execute(LIST_INPUTS, {"chunk_id": chunk.chunk_id}).scalars()
    refused = [InputError(input_id, "too_large", detail) for input_id in ids]
    return Inputs(np.empty(0, np.int64), np.empty((0, *chunk.shape), chunk.dtype), refused)


class _Stream:
    """A file object for psycopg2 that keeps what it writes; for blocks of a row it is faster than io.BytesIO."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.write = self.content.extend


class _Blocks:
    """A file object for psycopg2 over an iterator of blocks; psycopg2 accepts blocks of any size from `read`."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def read(self, _: int) -> bytes:
        """Return the next block; the requested size is ignored."""
        return next(self._blocks, b"")


def copy_cursor(connection: sa.Connection) -> Any:
    """Return psycopg2's own cursor, for COPY."""
    return connection.connection.cursor()
