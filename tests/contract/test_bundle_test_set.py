"""The test set of a bundle is read with the manifest's dtype and shape, or refused in one sentence."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.bundles import arrays_and_labels, forge, publish_bundle

from bundle import BundleError
from bundle.test_set import read_test_set
from bundle.verify import open_bundle

X, Y = np.zeros((5, 4, 4, 1), np.uint8), np.zeros(5, np.int64)


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def refusal(tmp_path: Path, content: bytes) -> str:
    """Return why a bundle of 5 test samples is refused that has this content in test_set.npz."""
    bundle = publish_bundle(tmp_path, n=5)
    forge(bundle.path, "test_set.npz", content)
    with pytest.raises(BundleError) as error:
        read_test_set(open_bundle(bundle.path))
    return str(error.value)


def test_a_test_set_is_read_back_unchanged(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, n=5)
    x, y = read_test_set(bundle)
    assert (x.shape, x.dtype.name, y.shape, y.dtype.name) == ((5, 4, 4, 1), "uint8", (5,), "int64")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_test_set_that_is_not_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "test_set.npz is not a .npz file of x and y" in refusal(tmp_path, content)


def test_a_test_set_without_labels_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assert "There is no item named 'y.npy' in the archive" in refusal(tmp_path, npz(x=X))


def test_pickled_objects_in_a_test_set_are_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, npz(x=np.array([{}], object), y=Y))
    assert "holds x object (1,), the manifest says uint8 (5, 4, 4, 1)" in said


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X[:4], "y": Y}, "holds x uint8 (4, 4, 4, 1), the manifest says uint8 (5, 4, 4, 1)"),
        ({"x": X.astype(">i4"), "y": Y}, "holds x >i4 (5, 4, 4, 1), the manifest says uint8"),
        ({"x": X, "y": Y + 0.5}, "holds y float64 (5,), the manifest says integer (5,)"),
        ({"x": X, "y": Y[:4]}, "holds y int64 (4,), the manifest says integer (5,)"),
        ({"x": X, "y": Y + 3}, "holds labels from 3 to 3, the manifest says 3 classes"),
        ({"x": X, "y": Y - 1}, "holds labels from -1 to -1, the manifest says 3 classes"),
    ],
)
def test_a_test_set_that_differs_from_the_manifest_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    assert said in refusal(tmp_path, npz(**arrays))


def test_arrays_in_fortran_order_are_read_in_c_order(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, n=5)
    x, y = arrays_and_labels(5)
    forge(bundle.path, "test_set.npz", npz(x=np.asfortranarray(x), y=y.astype(">i2")))
    read, labels = read_test_set(open_bundle(bundle.path))
    assert np.array_equal(read, x)
    assert np.array_equal(labels, y)
    assert read.flags.c_contiguous


@pytest.mark.parametrize("header", ["(1000000000000,)", "(5, 4, 4, 1)"])
def test_a_forged_npy_header_is_refused_before_the_data(tmp_path: Path, header: str) -> None:
    """A header with another shape than the data, with the manifest's shape or with a huge one."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {header}, }}".encode().ljust(117) + b"\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"four")
    assert refusal(tmp_path, content.getvalue())


def test_an_archive_of_very_many_members_is_refused_unread(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.npy", b"")
    assert "it has too many members" in refusal(tmp_path, content.getvalue())


def test_an_archive_with_lzma_is_refused_unread(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"x")
    assert "it is not compressed with deflate" in refusal(tmp_path, content.getvalue())
