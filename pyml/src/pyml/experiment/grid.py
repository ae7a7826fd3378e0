"""Grids: a list in the place of one value gives one experiment for each element of the list.

    "optimizer": {"name": "Adam", "learning_rate": [0.01, 0.001]}     two experiments
    "optimizer": [{"name": "Adam", ...}, {"name": "SGD", ...}]        also two
    {"layer": "Dense", "units": [150, 250], ...}                      also two

Several lists give all combinations. The name of each experiment contains its values: `imdb_cnn-units_150`. Among the
arguments of layers, only those that are never lists in Keras make a grid: `"kernel_size": [3, 3]` is one kernel.
"""

import copy
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pyml import PymlError

GRID_KEYS = ("data", "optimizer", "loss", "epochs", "batch_size", "early_stopping", "deterministic", "seed")
FIXED_DATA_KEYS = ("name", "kind", "path", "labels")  # all experiments of a file have the same dataset
GRID_ARGUMENTS = frozenset(
    "units filters rate activation output_dim use_bias kernel_initializer dropout recurrent_dropout negative_slope "
    "alpha stddev momentum depth_multiplier".split()
)
MAX_POINTS = 1000

Item = TypeVar("Item")
Place = tuple[str | int, ...]
Labels = tuple[tuple[Place, Any], ...]  # the values of a point, for its name


class GridError(ValueError):
    """A grid is not valid; the message names the place in the file."""


def expand_grid(document: Any) -> list[Any]:
    """Give the experiments of a document, each with its own name; the document itself if it has no grid.

    Raises GridError.
    """
    points = _expand(document)
    if points == [(document, ())]:
        return [document]
    axes = {place for _, labels in points for place, _ in labels}
    named = []
    for point, labels in points:
        values = [_label(place, value, axes) for place, value in labels]
        named.append(point | {"name": "-".join([str(point.get("name")), *values])})
    names = [point["name"] for point in named]
    for name in names:
        if names.count(name) > 1:
            raise GridError(f"the grid gives {name} more than once")
    return named


def take_share(experiments: Sequence[Item], share: str) -> list[Item]:
    """Give the experiments of one share `I/N`: those whose position modulo N is I, from 0 to N - 1.

    The N shares are disjoint and complete. A share is empty if N is greater than the number of experiments. Raises
    PymlError.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", share)
    if not match or not int(match[1]) < int(match[2]):
        raise PymlError(f"--share {share} is not I/N with I from 0 to N - 1; give for example --share 0/4")
    return list(experiments[int(match[1]) :: int(match[2])])


def _expand(document: Any) -> list[tuple[Any, Labels]]:
    """Give all combinations, each with the labels for its name. An option can itself hold a grid."""
    axes = [_axis(document, place) for place in _grids(document)]
    if not axes:
        return [(document, ())]
    points: list[tuple[Any, Labels]] = []
    for options in itertools.product(*axes):
        point = copy.deepcopy(document)
        for place, _, value in options:
            _at(point, place[:-1])[place[-1]] = copy.deepcopy(value)
        labels = tuple((place, short) for place, short, _ in options)
        points += [(whole, labels + more) for whole, more in _expand(point)]
        if len(points) > MAX_POINTS:
            raise GridError(f"the grid has more than {MAX_POINTS} points")
    return points


def _axis(document: Any, place: Place) -> list[tuple[Place, Any, Any]]:
    """List the options at one place, each with the place and a short name: (place, short name, option)."""
    options = _at(document, place)
    if not options:
        raise GridError(f"{'.'.join(map(str, place))}: the grid is empty")
    if any(isinstance(option, list) for option in options):  # nested deeply, it would take hours
        raise GridError(f"{'.'.join(map(str, place))}: the grid holds a list; write all its values in one list")
    return [(place, _short(value, options, number), value) for number, value in enumerate(options)]


def _grids(document: Any) -> Iterator[Place]:
    """Find the places that hold a grid."""
    if not isinstance(document, dict):
        return
    for key in GRID_KEYS:
        value = document.get(key)
        if isinstance(value, list):
            yield (key,)
        elif isinstance(value, dict):
            fixed = FIXED_DATA_KEYS if key == "data" else ()
            yield from (
                (key, inner) for inner, found in value.items() if isinstance(found, list) and inner not in fixed
            )
    layers = document.get("layers")
    for index, layer in enumerate(layers if isinstance(layers, list) else ()):
        if isinstance(layer, dict):
            for key, found in layer.items():
                if key in GRID_ARGUMENTS and isinstance(found, list):
                    yield ("layers", index, key)


def _at(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def _short(value: Any, options: list[Any], number: int) -> Any:
    """Give a short name of an option: its value; for an object its `name` if that is unique, else its number."""
    if not isinstance(value, dict):
        return value
    names = [option.get("name") for option in options if isinstance(option, dict)]
    return value["name"] if "name" in value and names.count(value["name"]) == 1 else number + 1


def _label(place: Place, value: Any, axes: set[Place]) -> str:
    """Give `key_value`. The key contains the layer's position if several layers vary the same argument."""
    key = place[-1] if place[-1] != "name" else place[-2]
    if place[0] == "layers" and sum(axis[-1] == place[-1] for axis in axes) > 1:
        key = f"layer{place[1]}_{key}"
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{key}_{text}")
