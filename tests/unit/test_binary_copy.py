"""COPY streams byte by byte. The tests in tests/db send them to a server."""

import struct

import numpy as np
import pytest

from pypredict.binary_copy import SIGNATURE, TRAILER, input_stream, iterate_inputs, parse_inputs, prediction_stream
from pypredict.codec import MAX_PAYLOAD_BYTES, CodecError, encode, npy_header


def field(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def input_rows(*rows: tuple[int, bytes]) -> bytes:
    return (
        SIGNATURE
        + b"".join(struct.pack(">h", 2) + field(struct.pack(">q", number)) + field(payload) for number, payload in rows)
        + TRAILER
    )


def test_golden_bytes_of_signature_and_trailer() -> None:
    assert SIGNATURE == bytes.fromhex("5047434f50590aff0d0a00 00000000 00000000")
    assert TRAILER == b"\xff\xff"


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_golden_bytes_of_labelled_inputs(dtype: str) -> None:
    arrays = np.arange(12, dtype=dtype).reshape(2, 3, 2)
    want = SIGNATURE
    for number, label in enumerate([7, 9]):
        want += struct.pack(">h", 4) + field(struct.pack(">q", 5)) + field(struct.pack(">i", number))
        want += field(struct.pack(">i", label)) + field(encode(arrays[number]))
    assert b"".join(input_stream(5, arrays, np.array([7, 9], np.int32))) == want + TRAILER


def test_a_too_large_input_is_refused_before_encoding() -> None:
    arrays = np.broadcast_to(np.float32(0), (2, MAX_PAYLOAD_BYTES // 4 - 31))  # 4 bytes too large with its header
    with pytest.raises(CodecError, match="is too large"):
        input_stream(5, arrays, None)
    assert next(input_stream(5, arrays[:, 1:], None)) == SIGNATURE


def test_blocks_of_a_stream_have_a_limit_and_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = np.arange(60, dtype=np.uint8).reshape(20, 3)
    whole = b"".join(input_stream(5, arrays, np.arange(20, dtype=np.int32)))
    monkeypatch.setattr("pypredict.binary_copy.BLOCK_BYTES", len(whole) // 3)
    blocks = list(input_stream(5, arrays, np.arange(20, dtype=np.int32)))
    assert b"".join(blocks) == whole
    assert max(map(len, blocks)) <= len(whole) // 3


def test_golden_bytes_of_an_unlabelled_input() -> None:
    arrays = np.array([[1, 2]], np.uint8)
    want = SIGNATURE + struct.pack(">h", 4) + field(struct.pack(">q", 5)) + field(struct.pack(">i", 0))
    want += struct.pack(">i", -1) + field(encode(arrays[0])) + TRAILER
    assert b"".join(input_stream(5, arrays, None)) == want


def test_golden_bytes_of_a_prediction() -> None:
    probabilities = np.array([[0.25, 0.75]], np.float32)
    array = struct.pack(">iiiii", 1, 0, 700, 2, 1) + field(struct.pack(">f", 0.25)) + field(struct.pack(">f", 0.75))
    head = SIGNATURE + struct.pack(">h", 6) + field(struct.pack(">q", 3)) + field(struct.pack(">q", 2**40))
    tail = field(struct.pack(">i", 1)) + field(struct.pack(">f", 0.75)) + field(array) + TRAILER
    for in_training, learned in ((None, b"\xff\xff\xff\xff"), ([True], field(b"\1")), ([False], field(b"\0"))):
        flags = None if in_training is None else np.array(in_training)
        assert prediction_stream(3, np.array([2**40]), probabilities, flags) == head + learned + tail


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_parsed_inputs_equal_the_written_arrays(dtype: str) -> None:
    arrays = np.arange(24, dtype=dtype).reshape(4, 3, 2)
    rows = [(10 + n, encode(array)) for n, array in enumerate(arrays)]
    stream = input_rows(*rows)
    parsed = parse_inputs(stream, dtype, (3, 2))
    assert parsed is not None
    assert parsed[0].tolist() == [10, 11, 12, 13]
    assert parsed[1].dtype == np.dtype(dtype)
    assert parsed[1].tobytes() == arrays.tobytes()


def test_an_empty_stream_parses_as_no_rows() -> None:
    parsed = parse_inputs(SIGNATURE + TRAILER, "uint8", (3,))
    assert parsed is not None
    assert parsed[1].shape == (0, 3)


def odd_rows() -> dict[str, bytes]:
    good = encode(np.zeros(6, np.uint8))
    reshaped = good.replace(b"(6,), }", b"(2,3),}")
    return {
        "shorter": input_rows((1, good), (2, good[:-1])),
        "longer": input_rows((1, good), (2, good + b"\0")),
        "other header of the same length": input_rows((1, good), (2, reshaped)),
        "bad magic": input_rows((1, good), (2, b"\x94" + good[1:])),
        "lengths that only add up": input_rows((1, good[:-1]), (2, good + b"\0")),
    }


@pytest.mark.parametrize("kind", odd_rows())
def test_a_stream_with_an_odd_row_is_iterated(kind: str) -> None:
    stream = odd_rows()[kind]
    assert parse_inputs(stream, "uint8", (6,)) is None
    assert [number for number, _ in iterate_inputs(stream)] == [1, 2]


def test_iterate_inputs_yields_every_payload_unchanged() -> None:
    payloads = [b"", b"x" * 1000, npy_header("uint8", (1,))]
    stream = input_rows(*enumerate(payloads))
    assert [payload and bytes(payload) for _, payload in iterate_inputs(stream)] == payloads


def test_a_payload_that_contains_a_row_gives_no_second_input() -> None:
    """The stream has the size of two rows, and each of the two looks like a row of the chunk."""
    payload = encode(np.array([1, 2, 3], np.uint8))
    forged = payload + struct.pack(">hiqi", 2, 8, 999, len(payload)) + payload
    assert parse_inputs(input_rows((1, payload), (2, payload)), "uint8", (3,)) is not None
    assert parse_inputs(input_rows((1, forged)), "uint8", (3,)) is None
