"""Forged payloads: each is refused with a CodecError, and nothing large is allocated."""

import pickle
import struct
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest
import sqlalchemy as sa

from pypredict.codec import CodecError, decode


def forged(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def header(descr: str = "'|u1'", order: str = "False", shape: str = "(4,)", more: str = "") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {more}}}\n".encode()


ATTACKS = {
    "37_huge_shape": forged(header(shape="(1000000000000,)"), b"abcd"),
    "37_shape_whose_product_overflows": forged(header(shape="(4294967296, 4294967296, 1)"), b"abcd"),
    "38_header_longer_than_the_limit": forged(header() + b" " * 2_000, b"abcd"),
    "38_header_length_beyond_the_payload": b"\x93NUMPY\x01\x00\xff\x03{}",
    "38_negative_dimension": forged(header(shape="(-4,)"), b"abcd"),
    "38_two_negative_dimensions": forged(header(shape="(-2, -2)"), b"abcd"),
    "zero_dimension": forged(header(shape="(0,)")),
    "boolean_dimension": forged(header(shape="(True, 4)"), b"abcd"),
    "float_dimension": forged(header(shape="(4.0,)"), b"abcd"),
    "list_for_shape": forged(header(shape="[4]"), b"abcd"),
    "no_dimension": forged(header(shape="()"), b"a"),
    "fortran_order": forged(header(order="True"), b"abcd"),
    "fortran_order_as_zero": forged(header(order="0"), b"abcd"),
    "object_dtype": forged(header(descr="'|O'"), pickle.dumps([1, 2, 3, 4])),
    "structured_dtype": forged(header(descr="[('a', '|u1')]"), b"abcd"),
    "big_endian_dtype": forged(header(descr="'>i4'", shape="(1,)"), b"abcd"),
    "extra_key": forged(header(more="'x': 1, "), b"abcd"),
    "missing_key": forged(b"{'descr': '|u1', 'shape': (4,), }\n", b"abcd"),
    "call_in_header": forged(header(shape="(__import__('os').getpid(),)"), b"abcd"),
    "deeply_nested_header": forged(b"(" * 900, b"abcd"),
    "null_bytes_in_header": forged(b"\0" * 60, b"abcd"),
    "control_character_behind_the_header": forged(header()[:-1] + b"\x1e\n", b"abcd"),
    "carriage_return_in_the_header": forged(header()[:-1] + b" \r \n", b"abcd"),
    "version_2": forged(header(), b"abcd", version=b"\x02\x00"),
    "36_bad_magic": b"\x92NUMPY\x01\x00" + b"x" * 100,
    "39_pickle": pickle.dumps(np.zeros(3)),
    "empty": b"",
    "magic_alone": b"\x93NUMPY\x01\x00",
}


@pytest.mark.parametrize("payload", ATTACKS.values(), ids=ATTACKS.keys())
def test_36_to_39_a_forged_payload_is_refused_without_allocating(payload: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_36_to_39_the_sql_functions_give_null_for_forged_payloads(engine: sa.Engine) -> None:
    query = sa.text("SELECT ml.npy_dtype(:p), ml.npy_shape(:p), ml.npy_values(:p, 9), ml.npy_drawing(:p)")
    with engine.connect() as connection:
        shown = {name: set(connection.execute(query, {"p": payload}).one()) for name, payload in ATTACKS.items()}
    assert shown == {name: {None} for name in ATTACKS}


def test_39_npz_is_refused() -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", b"")
    with pytest.raises(CodecError, match="starts with"):
        decode(buffer.getvalue())
