"""The clock. The ways to do the same work run in turns, so that a busy moment of the machine slows all of them."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping

from pyml import provenance

Way = Callable[[], float | None]  # does the work; returns its own seconds, or None: the caller measures them


def interleave(
    ways: Mapping[str, Way], rounds: int, reset: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Run each way once in each round, each round in another order; return the seconds of all rounds by way.

    reset: called before each run; its time does not count.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            reset()
            gc.collect()
            began = time.perf_counter()
            own = ways[name]()
            seconds[name].append(own if own is not None else time.perf_counter() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """Return how many times faster `name` is than `other`: the median of the ratios of the rounds."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))


def rate(seconds: list[float], n: int) -> float:
    """Return rows per second in the median round."""
    return n / statistics.median(seconds)


def untimed(_: object) -> None:
    """Drop the result of a way, so that the caller measures the time."""


def middle(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def machine() -> str:
    """Describe the machine, without its name, and the Python version."""
    return f"{provenance.machine()}, Python {platform.python_version()}"


def table(title: str, seconds: dict[str, list[float]], n: int) -> tuple[list[str], list[list[str]]]:
    """Return a table of all ways, the fastest first: rows per second, and how many times faster `this` is."""
    ways = sorted(seconds, key=lambda way: statistics.median(seconds[way]))
    rows = [[way, f"{rate(seconds[way], n):,.0f}", f"{ratio(seconds, 'this', way):.2f} ×"] for way in ways]
    return [title, "rows/s", "this is"], rows
