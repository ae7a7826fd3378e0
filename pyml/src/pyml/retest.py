"""Test a published bundle again: verify it, load it, predict its held-out set, compare with its manifest."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.manifest import HOLDOUT_FILE, Metrics
from bundle.model import load_model, predict_probabilities
from bundle.verify import open_bundle
from pyml.metrics import evaluate

# Sums of float32 differ in their last digits between processors; counts do not.
RELATIVE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """One figure: as the manifest promises it, and as it was measured now."""

    figure: str
    promised: float
    measured: float

    @property
    def agrees(self) -> bool:
        """Counts and accuracy must be equal to the last digit, the others to five."""
        if self.figure in ("n", "n_correct", "accuracy"):
            return self.promised == self.measured
        return math.isclose(self.promised, self.measured, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)


def retest(path: Path) -> list[Comparison]:
    """Measure the bundle at path again. Raises BundleError when it cannot be trusted or does not work."""
    bundle = open_bundle(path)
    x, y = read_holdout(path / HOLDOUT_FILE)
    n_classes = len(bundle.manifest.classes)
    measured = evaluate(predict_probabilities(load_model(bundle), x, n_classes), y)
    return compare(bundle.manifest.metrics, measured)


def compare(promised: Metrics, measured: Metrics) -> list[Comparison]:
    """Set each promised figure beside the measured one."""
    found = measured.model_dump()
    return [Comparison(figure, value, found[figure]) for figure, value in promised.model_dump().items()]


def read_holdout(path: Path) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    """Read x (n, ...) and y (n,) from holdout.npz; pickles are refused. Raises BundleError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["x"], arrays["y"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is not a held-out set with arrays x and y ({error}); train again") from error
