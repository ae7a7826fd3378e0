"""Prepared samples have the same behaviour in memory and in a file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyml import PymlError
from pyml.datasets import samples as module
from pyml.datasets.samples import Samples, StoredSamples, parts, save_npz, select, store_samples

SHAPE = (2055, 3, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def store(memory_bytes: int, directory: Path, n: int = len(IMAGES)) -> Samples:
    images: Iterator[np.ndarray] = iter(IMAGES[:n])
    return store_samples(images, SHAPE, memory_bytes=memory_bytes, directory=directory)


@pytest.fixture
def stored(tmp_path: Path) -> Samples:
    return store(IMAGES.nbytes - 1, tmp_path / "models")


def test_samples_that_fit_into_memory_stay_there(tmp_path: Path) -> None:
    samples = store(IMAGES.nbytes, tmp_path / "models")
    assert isinstance(samples, np.ndarray)
    assert np.array_equal(samples, IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_samples_beyond_the_memory_go_into_an_unnamed_file(stored: Samples, tmp_path: Path) -> None:
    assert isinstance(stored, StoredSamples)
    assert list((tmp_path / "models").iterdir()) == []


def test_stored_samples_have_dtype_shape_and_length(stored: Samples) -> None:
    assert (stored.dtype.name, stored.shape, len(stored)) == ("uint8", SHAPE, SHAPE[0])


@pytest.mark.parametrize("rows", [slice(3, 9), slice(None), np.array([5, 0, 5, 2054]), np.array([], np.int64)])
def test_stored_samples_are_indexed_like_an_array(stored: Samples, rows: slice | np.ndarray) -> None:
    assert np.array_equal(stored[rows], IMAGES[rows])


def test_a_selection_of_a_selection_is_indexed_like_an_array(stored: Samples) -> None:
    some, few = np.array([9, 4, 2000, 7]), np.array([3, 1])
    assert np.array_equal(select(select(stored, some), few)[:], IMAGES[some][few])
    assert np.array_equal(select(select(IMAGES, some), few)[:], IMAGES[some][few])


@pytest.mark.parametrize("memory_bytes", [0, IMAGES.nbytes])
def test_fewer_samples_than_expected_are_all_kept(tmp_path: Path, memory_bytes: int) -> None:
    assert np.array_equal(store(memory_bytes, tmp_path, n=5)[:], IMAGES[:5])


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 6005)


def test_parts_give_all_samples_in_order(stored: Samples) -> None:
    assert [len(part) for part in parts(stored)] == [1000, 1000, 55]
    assert np.array_equal(np.concatenate(list(parts(stored))), IMAGES)


@pytest.mark.parametrize("array", [IMAGES, np.arange(5), np.asfortranarray(np.ones((4, 3), np.float32))])
def test_an_npz_file_equals_that_of_numpy(tmp_path: Path, array: np.ndarray) -> None:
    save_npz(tmp_path / "ours.npz", x=array, y=np.arange(3))
    np.savez_compressed(tmp_path / "numpys.npz", x=np.ascontiguousarray(array), y=np.arange(3))
    with np.load(tmp_path / "ours.npz") as ours, np.load(tmp_path / "numpys.npz") as numpys:
        assert ours.files == numpys.files
        assert np.array_equal(ours["x"], numpys["x"])
        assert ours["x"].dtype == numpys["x"].dtype
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "numpys.npz").read_bytes()


def test_stored_samples_give_the_same_npz_as_an_array(stored: Samples, tmp_path: Path) -> None:
    save_npz(tmp_path / "stored.npz", x=stored)
    save_npz(tmp_path / "array.npz", x=IMAGES)
    assert (tmp_path / "stored.npz").read_bytes() == (tmp_path / "array.npz").read_bytes()


def test_an_unwritable_directory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PymlError, match=r"file cannot hold the prepared samples, up to 12,330 bytes"):
        store(0, tmp_path / "file")


def test_a_truncated_sample_file_is_refused(stored: Samples) -> None:
    assert isinstance(stored, StoredSamples)
    stored._file.truncate(60)
    with pytest.raises(PymlError, match="sample 10 cannot be read back"):
        stored[5:15]
