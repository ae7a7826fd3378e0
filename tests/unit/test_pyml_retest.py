"""When a measured figure agrees with the promised one."""

from pathlib import Path

import numpy as np
import pytest

from bundle import BundleError
from pyml.retest import Comparison, read_holdout


@pytest.mark.parametrize(
    ("figure", "promised", "other"),
    [("n", 10**7, 10**7 + 1), ("n_correct", 10**7, 10**7 - 1), ("accuracy", 0.9, np.nextafter(0.9, 1))],
)
def test_counts_and_accuracy_agree_only_to_the_last_digit(figure: str, promised: float, other: float) -> None:
    assert Comparison(figure, promised, promised).agrees
    assert not Comparison(figure, promised, other).agrees


@pytest.mark.parametrize(("measured", "agrees"), [(0.5, True), (0.500001, True), (0.5001, False), (0.0, False)])
def test_other_figures_may_differ_by_the_rounding_of_another_processor(measured: float, agrees: bool) -> None:
    assert Comparison("loss", 0.5, measured).agrees is agrees


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_held_out_set_that_is_no_archive_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "holdout.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"holdout\.npz is not a \.npz file"):
        read_holdout(tmp_path / "holdout.npz")


def test_a_held_out_set_without_labels_is_one_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "holdout.npz", x=np.zeros(3))
    with pytest.raises(BundleError, match="is not a held-out set"):
        read_holdout(tmp_path / "holdout.npz")


def test_pickled_objects_in_a_held_out_set_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "holdout.npz", x=np.array([{}], object), y=np.zeros(1))
    with pytest.raises(BundleError, match=r"is not a \.npz file"):
        read_holdout(tmp_path / "holdout.npz")
