"""Test a published bundle again: verify it, load it, predict its held-out set, compare with its manifest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.arrays import Array, read_npz
from bundle.manifest import HOLDOUT_FILE, Metrics
from bundle.model import load_model, predict_probabilities
from bundle.verify import open_bundle
from pyml.metrics import evaluate

# Sums of float32 differ in their last digits between processors; counts do not.
RELATIVE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """One figure: as the manifest promises it, and as it was measured now; None where it cannot be known."""

    figure: str
    promised: float | None
    measured: float | None
    of_class: bool = False

    @property
    def agrees(self) -> bool:
        """Counts and accuracy must be equal to the last digit, the others to five."""
        exact = isinstance(self.promised, int) or self.figure in ("n", "n_correct", "accuracy")
        if exact or self.promised is None or self.measured is None:
            return self.promised == self.measured
        return math.isclose(self.promised, self.measured, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)


def retest(path: Path) -> list[Comparison]:
    """Measure the bundle at path again. Raises BundleError when it cannot be trusted or does not work."""
    bundle = open_bundle(path)
    x, y = read_holdout(path / HOLDOUT_FILE)
    classes = bundle.manifest.classes
    measured = evaluate(predict_probabilities(load_model(bundle), x, len(classes)), y)
    return compare(bundle.manifest.metrics, measured, classes)


def compare(promised: Metrics, measured: Metrics, classes: Sequence[str]) -> list[Comparison]:
    """Set each promised figure beside the measured one: the whole test set's, then each class's."""
    lists = {"per_class", "confusion"}
    rows = [
        Comparison(figure, value, getattr(measured, figure))
        for figure, value in promised.model_dump(exclude=lists, exclude_unset=True).items()  # an older one lacks some
    ]
    for name, old, new in zip(classes, promised.per_class, measured.per_class, strict=False):
        figures = old.model_dump().items()
        rows += [Comparison(f"{figure} of {name}", value, getattr(new, figure), True) for figure, value in figures]
    for name, old_row, new_row in zip(classes, promised.confusion, measured.confusion, strict=False):
        rows += [
            Comparison(f"{name} taken for {other}", old_count, new_count, True)
            for other, old_count, new_count in zip(classes, old_row, new_row, strict=False)
        ]
    return rows


def read_holdout(path: Path) -> tuple[Array, npt.NDArray[np.int64]]:
    """Read x (n, ...) and y (n,) from holdout.npz; pickles are refused. Raises BundleError."""
    arrays = read_npz(path, ("x", "y"))
    if len(arrays) < 2:
        raise BundleError(f"{path} is not a held-out set with arrays x and y; train again")
    y: Any = arrays["y"]
    return arrays["x"], y
