"""The charts of the report: round ticks, few points, no point that is not finite."""

import numpy as np
import pytest

from pypredict.charts import BOTTOM, LEFT, MAX_POINTS, RIGHT, TOP, make_axis, make_bars, make_line

UNIT = make_axis("x", 0, 1), make_axis("y", 0, 1, vertical=True)


def points(text: str) -> np.ndarray:
    return np.array([pair.split(",") for pair in text.split()], float)


@pytest.mark.parametrize(
    ("low", "high", "whole", "ticks"),
    [
        (0, 1, False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (1, 60, True, ["20", "40", "60"]),
        (1, 3, True, ["1", "2", "3"]),
        (0, 12345, False, ["0", "5,000", "10,000"]),
        (7, 7, True, ["7"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, *, whole: bool, ticks: list[str]) -> None:
    assert [text for _, text in make_axis("x", low, high, whole=whole).ticks] == ticks


def test_a_long_line_keeps_its_ends_and_few_points() -> None:
    x = np.linspace(0, 1, 10_000)
    drawn = points(make_line("", x, x, UNIT).points)
    assert len(drawn) <= MAX_POINTS
    assert drawn[0].tolist() == [LEFT, BOTTOM]
    assert drawn[-1].tolist() == [RIGHT, TOP]


def test_points_that_are_not_finite_are_left_out() -> None:
    line = make_line("", [0, 0.5, 1], [0, np.nan, np.inf], UNIT)
    assert line.points == f"{LEFT:.1f},{BOTTOM:.1f}"
    assert line.dot == (LEFT, BOTTOM)


def test_an_empty_bin_has_no_bar() -> None:
    (bar,) = make_bars([0, 0.5, 1], [0, 1], UNIT)
    assert (bar.x, bar.y, bar.height) == ((LEFT + RIGHT) / 2 + 1, TOP, BOTTOM - TOP)
