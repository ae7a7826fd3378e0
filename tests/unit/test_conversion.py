"""A converted model is accepted only if it predicts what Keras predicts."""

import numpy as np
import pytest

from pyml import PymlError
from pyml.training.conversion import check_conversion

KERAS = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]], np.float32)


def changed(row: int, column: int, by: float) -> np.ndarray:
    served = KERAS.copy()
    served[row, column] += np.float32(by)
    return served


@pytest.mark.parametrize("by", [0, 5e-6, -5e-6])
def test_small_differences_are_accepted(by: float) -> None:
    check_conversion(KERAS, changed(0, 1, by))


@pytest.mark.parametrize("by", [2e-5, -2e-5, 0.5, np.nan, np.inf])
def test_larger_differences_are_refused(by: float) -> None:
    with pytest.raises(PymlError, match=r"LiteRT's probabilities differ from Keras's by .*, at most 1e-05 is allowed"):
        check_conversion(KERAS, changed(0, 1, by))


def test_another_class_is_accepted_if_the_two_best_are_as_good_as_equal() -> None:
    check_conversion(KERAS, changed(1, 1, 5e-6))


def test_numbers_that_both_cannot_give_are_not_a_difference() -> None:
    check_conversion(changed(0, 1, np.nan), changed(0, 1, np.nan))


def test_another_class_is_refused_if_the_two_best_are_further_apart() -> None:
    """Each probability is within the limit, but the two best ones, 1.8e-5 apart, change their order."""
    kept = np.array([[0.400018, 0.4, 0.199982]], np.float32)
    served = np.array([[0.400009, 0.4000095, 0.1999815]], np.float32)
    with pytest.raises(PymlError, match="differ from Keras's by 9"):
        check_conversion(kept, served)
