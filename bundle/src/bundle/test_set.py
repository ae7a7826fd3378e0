"""`test_set.npz`: the samples x (n, ...) of the test set, and their labels y (n,), numbers into the classes."""

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.inputs.arrays import Array, read_npz
from bundle.manifest import TEST_SET_FILE
from bundle.verify import Bundle


def read_test_set(bundle: Bundle) -> tuple[Array, npt.NDArray[np.int64]]:
    """Read x (n, ...) in the input's dtype and y (n,). Raises BundleError when they differ from the manifest."""
    manifest, path = bundle.manifest, bundle.path / TEST_SET_FILE
    found = read_npz(path, ("x", "y"))
    if "x" not in found or "y" not in found or found["y"].dtype.kind not in "iu":
        raise BundleError(f"{path} holds no x, or no y with class numbers; publish the bundle again")
    x, y = found["x"], found["y"].astype(np.int64)
    n, wanted = manifest.metrics.n, manifest.input
    if x.dtype != wanted.dtype or x.shape != (n, *wanted.shape) or y.shape != (n,):
        raise BundleError(
            f"{path} holds x {x.dtype} {x.shape} and y {y.shape}, the manifest says {wanted.dtype} "
            f"{(n, *wanted.shape)} and {(n,)}; publish the bundle again"
        )
    if y.min() < 0 or y.max() >= len(manifest.classes):
        raise BundleError(
            f"{path} holds labels from {y.min()} to {y.max()}, the manifest says {len(manifest.classes)} classes; "
            "publish the bundle again"
        )
    return x, y
