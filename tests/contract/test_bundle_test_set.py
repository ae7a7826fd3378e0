"""The test set of a bundle is read with the manifest's dtype and shape, or refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest
from support.bundles import publish_bundle

from bundle import BundleError
from bundle.test_set import read_test_set


def test_a_test_set_is_read_back_unchanged(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, n=5)
    x, y = read_test_set(bundle)
    assert (x.shape, x.dtype.name, y.shape, y.dtype.name) == ((5, 4, 4, 1), "uint8", (5,), "int64")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_test_set_that_is_not_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    bundle = publish_bundle(tmp_path)
    (bundle.path / "test_set.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"test_set\.npz is not a \.npz file"):
        read_test_set(bundle)


def test_a_test_set_without_labels_is_refused_in_one_sentence(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    np.savez(bundle.path / "test_set.npz", x=np.zeros(3))
    with pytest.raises(BundleError, match="holds no x, or no y with class numbers"):
        read_test_set(bundle)


def test_pickled_objects_in_a_test_set_are_refused(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    np.savez(bundle.path / "test_set.npz", x=np.array([{}], object), y=np.zeros(1))
    with pytest.raises(BundleError, match=r"is not a \.npz file"):
        read_test_set(bundle)
