"""The payload format: the bytes of np.save, read strictly."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bundle.manifest import MAX_INPUT_BYTES, InputSpec
from pypredict.codec import (
    DTYPES,
    CodecError,
    bounded_header,
    decode,
    encode,
    npy_header,
    payload_bytes,
)

shapes = hnp.array_shapes(min_dims=1, max_dims=8, min_side=1, max_side=5)
arrays = st.sampled_from(sorted(DTYPES)).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), shapes))


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@given(arrays)
def test_50_round_trip_is_bit_exact_over_dtypes_and_shapes(array: np.ndarray) -> None:
    back = decode(encode(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(arrays)
def test_a_payload_equals_the_bytes_of_np_save(array: np.ndarray) -> None:
    assert encode(array) == saved(array)


@given(arrays)
def test_payload_bytes_is_the_size_of_the_payload(array: np.ndarray) -> None:
    assert payload_bytes(array.dtype.name, array.shape) == len(encode(array))


def test_golden_bytes() -> None:
    payload = encode(np.array([[1, 2], [3, 4]], np.uint8))
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }"
    assert payload == b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(0x75) + b"\n" + b"\x01\x02\x03\x04"


@pytest.mark.parametrize(
    "variant",
    [
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: np.flip(np.flip(a, 0).copy(), 0),
    ],
    ids=["big-endian", "fortran", "strided", "negative-stride"],
)
@pytest.mark.parametrize("dtype", ["int32", "float32", "uint8"])
def test_41_arrays_of_every_memory_order_are_normalised(
    variant: Callable[[np.ndarray], np.ndarray], dtype: str
) -> None:
    array = np.arange(24, dtype=dtype).reshape(4, 3, 2)
    assert encode(variant(array)) == encode(array)


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "int64", "uint16", "int8"])
def test_42_other_numeric_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(CodecError, match=f"dtype {dtype} cannot be stored; cast to one of uint8, int32, float32"):
        encode(np.zeros(3, dtype))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, "complex64"),
        np.zeros(3, "datetime64[s]"),
        np.ma.masked_array(np.zeros(3, "uint8"), [True, False, False]),
        np.array([None, "x"], object),
        np.zeros(2, [("a", "u1"), ("b", "u1")]),
        np.array(["text"]),
    ],
    ids=["complex", "datetime", "masked", "object", "structured", "text"],
)
def test_40_43_arrays_without_plain_numbers_are_refused(array: np.ndarray) -> None:
    with pytest.raises(CodecError, match="cannot be stored"):
        encode(array)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,) * 9])
def test_45_empty_0d_and_9d_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="1 to 8 dimensions of at least 1 are needed"):
        encode(np.zeros(shape, np.uint8))


def test_46_an_array_over_64_mib_is_refused() -> None:
    limit = 64 * 2**20  # the header has 128 bytes
    assert len(encode(np.broadcast_to(np.uint8(0), (limit - 128,)))) == limit
    with pytest.raises(CodecError, match="is too large"):
        encode(np.broadcast_to(np.uint8(0), (limit - 127,)))


def test_decoding_copies_nothing() -> None:
    payload = encode(np.arange(6, dtype=np.uint8))
    assert not decode(payload).flags.owndata
    assert not decode(payload).flags.writeable


@given(arrays, st.data())
def test_36_truncated_and_extended_payloads_are_refused(array: np.ndarray, data: st.DataObject) -> None:
    payload = encode(array)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(CodecError):
        decode(payload[:cut])
    with pytest.raises(CodecError):
        decode(payload + b"\0")


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_never_crashes(garbage: bytes) -> None:
    with pytest.raises(CodecError):
        decode(garbage)
    with pytest.raises(CodecError):
        decode(b"\x93NUMPY\x01\x00" + garbage)


@given(arrays, st.data())
def test_a_flipped_byte_in_the_header_does_not_change_the_size(array: np.ndarray, data: st.DataObject) -> None:
    payload = bytearray(encode(array))
    header = len(npy_header(array.dtype.name, array.shape))
    payload[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    try:
        back = decode(bytes(payload))
    except CodecError:
        return
    assert back.nbytes == len(payload) - (10 + int.from_bytes(payload[8:10], "little"))
    assert math.prod(back.shape) == back.size


@pytest.mark.parametrize("shape", [(MAX_INPUT_BYTES,), (MAX_INPUT_BYTES // 128, 2, 2, 2, 2, 2, 2, 2)])
def test_the_largest_input_of_a_manifest_can_be_stored(shape: tuple[int, ...]) -> None:
    InputSpec(dtype="uint8", shape=shape)
    assert bounded_header("uint8", shape)
