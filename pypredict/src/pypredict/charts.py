"""The geometry of the charts of a report: positions in pixels for the SVG of templates/charts.html.j2."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

LEFT, TOP, RIGHT, BOTTOM = 52, 12, 308, 176  # edges of the plotted area, in a picture of 320 x 220
MAX_POINTS = 120  # of a drawn line
N_TICKS = 5

Values = npt.NDArray[np.float64] | Sequence[float]


@dataclass(frozen=True)
class Axis:
    """An axis with its title; ticks: positions in pixels and their texts."""

    title: str
    low: float
    high: float
    start: float
    end: float
    ticks: list[tuple[float, str]]

    def place(self, values: Values) -> npt.NDArray[np.float64]:
        """Return the positions of values in pixels."""
        share = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        return np.asarray(self.start + share * (self.end - self.start))


@dataclass(frozen=True)
class Line:
    """A line as the points of an SVG polyline. style: `first`, `second` or `guide`, with its own colour and dashes."""

    name: str
    points: str
    style: str
    dot: tuple[float, float] | None = None  # a line of one point is a dot


@dataclass(frozen=True)
class Bar:
    """A bar from its top to the x axis, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chart:
    """One chart. description: its text for people who do not see it."""

    title: str
    description: str
    x: Axis
    y: Axis
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)


def make_axis(title: str, low: float, high: float, *, vertical: bool = False, whole: bool = False) -> Axis:
    """Make an axis over [low, high] with ticks at round numbers. whole: ticks at whole numbers only."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    start, end = (BOTTOM, TOP) if vertical else (LEFT, RIGHT)
    step = _round_step((high - low) / N_TICKS)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    values = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
    positions = [round(start + (value - low) / (high - low) * (end - start), 1) for value in values]
    texts = [f"{value:,.10g}" if abs(value) < 1e6 else f"{value:.0e}" for value in values]
    return Axis(title, low, high, start, end, list(zip(positions, texts, strict=True)))


def make_line(name: str, x: Values, y: Values, axes: tuple[Axis, Axis], style: str = "first") -> Line:
    """Make a line of at most MAX_POINTS points, evenly spread along it; points that are not finite are left out."""
    left, top = axes[0].place(x), axes[1].place(y)
    finite = np.isfinite(left) & np.isfinite(top)
    left, top = left[finite], top[finite]
    if len(left) > MAX_POINTS:
        walked = np.append(0.0, np.cumsum(np.abs(np.diff(left)) + np.abs(np.diff(top))))
        kept = np.unique(np.searchsorted(walked, np.linspace(0, walked[-1], MAX_POINTS)))
        left, top = left[kept], top[kept]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(left.tolist(), top.tolist(), strict=True))
    dot = (float(left[0]), float(top[0])) if len(left) == 1 else None
    return Line(name, points, style, dot)


def make_bars(edges: Values, heights: Values, axes: tuple[Axis, Axis]) -> list[Bar]:
    """Make a bar of each height (n,) between two edges (n + 1,)."""
    places, tops = axes[0].place(edges).tolist(), axes[1].place(heights).tolist()
    return [
        Bar(round(left + 1, 1), round(top, 1), round(right - left - 2, 1), round(BOTTOM - top, 1))
        for left, right, top in zip(places, places[1:], tops, strict=False)
        if top < BOTTOM
    ]


def _round_step(step: float) -> float:
    """Return the next step of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
