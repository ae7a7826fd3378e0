"""The plots are drawn for all class names and for incomplete test sets."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyml.evaluation.metrics import evaluate
from pyml.reports.plots import MAX_NAME, PLOT_FILES, draw_plots, shorten


def draw(directory: Path, names: list[str], y: list[int]) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((len(y), len(names)), np.float32) + np.eye(len(names), dtype=np.float32)[y]
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    labels = np.array(y)
    draw_plots(directory, probabilities, labels, evaluate(probabilities, labels), names)


@pytest.mark.parametrize(
    ("names", "y"),
    [
        (["cat", "dog"], [0, 1, 1, 0]),
        (["$x_1$ $", "_hidden", "a\nvery " * 20, "猫 🐈", "<b>", "%s"], [0, 1, 2, 3, 4, 5]),
        (["a", "b", "c"], [0, 0, 1]),
        (["a", "b"], [0, 0]),
        ([f"class {n}" for n in range(70)], list(range(70)) * 2),
    ],
    ids=["two", "odd names", "a class without samples", "one class only", "many"],
)
def test_three_plots_are_drawn_without_a_warning(tmp_path: Path, names: list[str], y: list[int]) -> None:
    with warnings.catch_warnings(action="error"):
        warnings.simplefilter("ignore", ResourceWarning)  # of garbage that other tests left
        draw(tmp_path, names, y)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PLOT_FILES)
    for name in PLOT_FILES:
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image.convert("L")).std() > 5  # it is not empty


def test_the_same_predictions_give_the_same_plots(tmp_path: Path) -> None:
    for directory in (tmp_path / "a", tmp_path / "b"):
        directory.mkdir()
        draw(directory, ["cat", "dog"], [0, 1, 1, 0])
    for name in PLOT_FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_long_name_is_shortened_to_one_line() -> None:
    assert shorten("a\n  b") == "a b"
    assert len(shorten("x" * 100)) == MAX_NAME
