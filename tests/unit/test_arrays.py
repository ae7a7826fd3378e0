"""Array files are read without pickle, and samples and labels are converted without changing a value."""

import io
import math
from pathlib import Path

import numpy as np
import pytest

from bundle.inputs.arrays import ArraysError, cast_samples, npz_names, read_labels, read_npy, read_npz, stack_samples
from bundle.manifest import InputSpec

PATH = Path("mine.npz")
IMAGE = InputSpec(dtype="uint8", shape=(4, 5, 1))


def npz_bytes(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def test_read_npz_returns_all_arrays_or_only_named_ones(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(npz_bytes(x=np.zeros(3), y=np.ones(3), z=np.zeros(1)))
    assert read_npz(tmp_path / "x.npz").keys() == {"x", "y", "z"}
    assert read_npz(tmp_path / "x.npz", ("x", "absent")).keys() == {"x"}


def test_read_npz_does_not_open_other_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(3), extra=np.array([{}], object))
    assert read_npz(tmp_path / "x.npz", ("x",)).keys() == {"x"}
    with pytest.raises(ArraysError, match="Object arrays cannot be loaded"):
        read_npz(tmp_path / "x.npz")


def test_names_of_an_npz_are_listed_without_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(3), extra=np.array([{}], object))
    assert npz_names(tmp_path / "x.npz") == ["x", "extra"]
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ArraysError, match=r"broken\.npz is not a \.npz file"):
        npz_names(tmp_path / "broken.npz")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_too_little_memory_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    path = tmp_path / f"x.{suffix}"
    np.save(path, np.zeros(3)) if suffix == "npy" else np.savez(path, x=np.zeros(3))
    monkeypatch.setattr("numpy.lib.format.read_array", fail)
    with pytest.raises(ArraysError, match="too little memory for its arrays; free some") as raised:
        read_npy(path) if suffix == "npy" else read_npz(path)
    assert "save it again" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.npy", b"", "its content is another kind of file"),
        ("x.npz", b"cos\nsystem\n(S'true'\ntR.", "its content is another kind of file"),
        ("x.npy", npz_bytes(x=np.zeros(3)), r"its content is \.npz"),
        ("x.npz", npz_bytes(x=np.zeros(30))[:-40], "not a zip file"),
        ("x.npy", b"\x93NUMPY\x01\x00\x10\x00nothing of this.", "Cannot parse header"),
        ("absent.npy", None, "No such file"),
    ],
)
def test_an_invalid_array_file_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    read = read_npy if name.endswith(".npy") else read_npz
    with pytest.raises(ArraysError, match=rf"{name} is not a {name[-4:]} file .*{said}.*; save it again") as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert "allow_pickle=" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("bool", "uint8"),
        ("int64", "uint8"),
        ("float32", "uint8"),
        ("float64", "uint8"),
        ("uint16", "uint8"),
        ("uint8", "int32"),
        ("uint64", "int32"),
        ("float16", "int32"),
        (">i4", "int32"),
        ("uint8", "float32"),
        ("int64", "float32"),
        ("float16", "float32"),
        ("float64", "float32"),
        (">f8", "float32"),
    ],
)
def test_a_cast_keeps_the_values(given: str, wanted: str) -> None:
    x = np.array([[0, 1], [1, 0]]).astype(given)
    cast = cast_samples(PATH, x, wanted)
    assert cast.dtype == wanted
    assert cast.dtype.isnative
    assert np.array_equal(cast, x)


def test_float64_is_rounded_and_keeps_nan_and_infinity() -> None:
    cast = cast_samples(PATH, np.array([[math.pi, math.nan, math.inf]]), "float32")
    assert np.array_equal(cast, np.array([[np.float32(math.pi), np.nan, np.inf]]), equal_nan=True)


@pytest.mark.parametrize(
    ("x", "wanted", "said"),
    [
        (np.array([[0.5]]), "uint8", "not whole numbers; uint8 is needed, 0 to 255, as in training"),
        (np.array([[math.nan]]), "int32", "not whole numbers"),
        (np.array([[256]]), "uint8", "from 256 to 256, which do not fit into uint8; whole numbers from 0 to 255 fit"),
        (np.array([[-1, 3]]), "uint8", "from -1 to 3, which do not fit into uint8"),
        (np.array([[2**31]]), "int32", "do not fit into int32"),
        (np.array([[2**64 - 1]], np.uint64), "int32", "do not fit into int32"),
        (np.array([[2**24 + 1]]), "float32", "do not fit into float32; whole numbers from -16777216 to 16777216 fit"),
        (np.array([[-1e300]]), "float32", "do not fit into float32; rescale the values"),
        (np.array([[1j]]), "float32", "plain numbers are needed: uint8, int32, float32, bool"),
        (np.array([["cat"]]), None, "plain numbers are needed"),
        (np.zeros((2, 2), "datetime64[s]"), None, "plain numbers are needed"),
        (np.zeros((2, 2), [("a", "u1")]), None, "plain numbers are needed"),
    ],
)
def test_values_that_do_not_fit_are_refused(x: np.ndarray, wanted: str | None, said: str) -> None:
    with pytest.raises(ArraysError, match=f"mine.npz holds samples .*{said}"):
        cast_samples(PATH, x, wanted)


@pytest.mark.parametrize("shape", [(4, 5, 1), (1, 4, 5, 1), (4, 5), (1, 4, 5)])
def test_one_sample_is_accepted_with_or_without_its_channel(shape: tuple[int, ...]) -> None:
    x = np.arange(20).reshape(shape)
    stack = stack_samples(PATH, x, IMAGE)
    assert (stack.shape, stack.dtype.name) == ((1, 4, 5, 1), "uint8")
    assert np.array_equal(stack.ravel(), np.arange(20))


@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (3, 4, 5)])
def test_a_stack_is_accepted_with_or_without_its_channel(shape: tuple[int, ...]) -> None:
    assert stack_samples(PATH, np.zeros(shape, np.uint8), IMAGE).shape == (3, 4, 5, 1)


@pytest.mark.parametrize("shape", [(0, 4, 5, 1), (5, 4), (3, 5, 4, 1), (4, 5, 3), (), (2, 3, 4, 5, 1)])
def test_samples_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArraysError) as raised:
        stack_samples(PATH, np.zeros(shape, np.uint8), IMAGE)
    assert str(raised.value) == (
        f"mine.npz holds uint8 {shape}; one sample (4, 5, 1) or a stack (n, 4, 5, 1), with or without its last axis "
        "is needed, uint8"
    )


def test_an_axis_of_three_channels_is_needed() -> None:
    with pytest.raises(ArraysError, match=r"one sample \(4, 5, 3\) or a stack \(n, 4, 5, 3\) is needed"):
        stack_samples(PATH, np.zeros((2, 4, 5), np.uint8), InputSpec(dtype="uint8", shape=(4, 5, 3)))


@pytest.mark.parametrize(
    "y",
    [
        np.array([2, 0, 1]),
        np.array([2, 0, 1], np.uint8),
        np.array([2.0, 0.0, 1.0], np.float32),
        np.array([[2], [0], [1]]),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], bool),
        np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    ],
)
def test_labels_of_every_form_become_the_same_numbers(y: np.ndarray) -> None:
    labels = read_labels(PATH, y, 3)
    assert (labels.dtype.name, labels.tolist()) == ("int64", [2, 0, 1])


def test_bool_labels_become_numbers_and_names_stay_names() -> None:
    assert read_labels(PATH, np.array([True, False]), 2).tolist() == [1, 0]
    assert read_labels(PATH, np.array([["cat"], ["dog"]]), 2).tolist() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.array([0, 1]), r"3 samples and labels int64 \(2,\); one whole number or name for each sample is needed"),
        (np.array(1), r"labels int64 \(\)"),
        (np.zeros((3, 0)), r"labels float64 \(3, 0\)"),
        (np.zeros((3, 2, 2)), r"labels float64 \(3, 2, 2\)"),
        (np.array([0.5, 1, 2]), "not whole numbers: this looks like regression, which is not supported"),
        (np.array([0, math.nan, 2]), "not whole numbers"),
        (np.array([[1, 1], [0, 1], [0, 1]]), "whose rows are not one-hot"),
        (np.array([[0, 0], [0, 1], [0, 1]]), "whose rows are not one-hot"),
        (np.array([[0.5, 0.5], [0, 1], [0, 1]]), "whose rows are not one-hot"),
        (np.array([["a", "b"]] * 3), "whose rows are not one-hot"),
        (np.array([b"a", b"b", b"c"]), r"labels \|S1"),
        (np.array([1j, 2, 3]), "labels complex128"),
        (np.array([65, 66, 2**21], np.uint32).view("<U1"), "with characters that are not Unicode"),
        (np.array([65, 66, 2**21], ">u4").view(">U1"), "with characters that are not Unicode"),
        (np.array([1, 2, 2**64 - 1], np.uint64), "which is too large"),
        (np.array([1, 2, 1e30]), "which is too large"),
    ],
)
def test_labels_of_another_form_are_refused(y: np.ndarray, said: str) -> None:
    with pytest.raises(ArraysError, match=f"mine.npz holds 3 samples and labels|{said}") as raised:
        read_labels(PATH, y, 3)
    assert raised.match(said)


def test_name_over_255_characters_is_refused_as_a_label() -> None:
    assert read_labels(PATH, np.array(["x" * 255, "y"]), 2).tolist() == ["x" * 255, "y"]
    with pytest.raises(ArraysError, match="one with 256 characters; a label has at most 255"):
        read_labels(PATH, np.array(["x" * 256, "y"]), 2)
