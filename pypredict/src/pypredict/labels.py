"""Convert the labels of a source to class numbers. Each label must be a class of the model, or be mapped to one.

A label map is a UTF-8 text file with one `label=class` per line. Empty lines and lines that begin with # are skipped.
"""

import difflib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.inputs.arrays import Array, read_labels
from bundle.inputs.files import MAX_CLASS_NAME, FilesError, read_utf8, readable_name
from bundle.messages import list_names, shorten
from pypredict import PypredictError

log = logging.getLogger(__name__)

MAX_MAP_BYTES = 2**20


class LabelError(PypredictError):
    """A label is not a class of the model, or a label map is invalid."""


@dataclass(frozen=True)
class Labelling:
    """How to use the labels of a source: as classes, through a mapping to classes, or not at all.

    mapping: label -> class, as read from `file`. used: the labels of the mapping that a source has had until now.
    """

    ignore: bool = False
    file: Path | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def class_numbers(self, labels: Collection[str], classes: Sequence[str], path: Path) -> dict[str, int] | None:
        """Return the class number of each label; None when there are no labels, or when they are ignored.

        Raises LabelError, which names the labels that are not classes.
        """
        if self.ignore or not labels:
            return None
        self.used.update(self.mapping.keys() & set(labels))
        odd = {label: name for label, name in self.mapping.items() if name not in classes}
        if odd:
            lines = list_names([f"{label}={name}" for label, name in odd.items()])
            raise LabelError(
                f"{self.file}: {lines} does not map to a class of the model; its classes are {_list(classes)}"
            )
        numbers = {name: number for number, name in enumerate(classes)}
        found = {label: self.mapping.get(label, label) for label in labels}
        unknown = sorted(label for label, name in found.items() if name not in numbers)
        if unknown:
            raise LabelError(
                f"{readable_name(str(path))} holds labels that are not classes of the model: {_list(unknown)}; "
                f"its classes are {_list(classes)}; give --label-map FILE with lines such as "
                f"{_suggest(unknown[0], classes)}, or --ignore-labels"
            )
        return {label: numbers[name] for label, name in found.items()}

    def array_class_numbers(self, y: Array, n: int, classes: Sequence[str], path: Path) -> npt.NDArray[np.int32] | None:
        """Return the class numbers (n,) of the labels of an array file. Raises LabelError, ArraysError.

        Whole numbers are class names if all classes are whole numbers, or if there is a mapping. Otherwise they are
        class numbers from 0. One-hot rows are always class numbers from 0.
        """
        if self.ignore:
            return None
        labels = read_labels(path, y, n)
        one_hot = y.ndim == 2 and y.shape[1] > 1
        if labels.dtype.kind == "U" or self.mapping or (not one_hot and all(map(_is_whole_number, classes))):
            found, positions = np.unique(labels, return_inverse=True)
            names = [str(label) for label in found]
            numbers = self.class_numbers(names, classes, path) or {}
            return np.array([numbers[name] for name in names], np.int32)[positions]
        if one_hot and y.shape[1] != len(classes):
            raise LabelError(f"{path} holds one-hot labels of {y.shape[1]} classes; {_of_the_model(classes)}")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise LabelError(
                f"{path} holds labels from {labels.min()} to {labels.max()}; {_of_the_model(classes)}, counted from 0; "
                "give names, --label-map FILE or --ignore-labels"
            )
        return labels.astype(np.int32)

    def warn_of_unused(self) -> None:
        """Log a warning about the labels of the mapping that no source has."""
        unused = [label for label in self.mapping if label not in self.used]
        if unused:
            log.warning("%s: no input has the label %s; check the spelling", self.file, _list(unused))


def read_label_map(path: Path) -> Labelling:
    """Read a label map. Raises LabelError, which names the line that is not label=class."""
    try:
        lines = read_utf8(path, MAX_MAP_BYTES).split("\n")
    except FilesError as error:
        raise LabelError(f"{error}; a label map has lines label=class") from error
    mapping: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        label, _, name = (part.strip() for part in line.partition("="))
        if not label or not name:
            shown = shorten(line.strip())
            raise LabelError(f"{path}, line {number}: {shown!r} is not label=class, for example cats=cat")
        if len(label) > MAX_CLASS_NAME:
            raise LabelError(f"{path}, line {number}: the label has {len(label)} characters, {MAX_CLASS_NAME} at most")
        if mapping.setdefault(label, name) != name:
            raise LabelError(f"{path}, line {number}: {shorten(label)} is already mapped to {shorten(mapping[label])}")
    if not mapping:
        raise LabelError(f"{path} maps no label; lines label=class are needed, for example cats=cat")
    return Labelling(file=path, mapping=mapping)


def _of_the_model(classes: Sequence[str]) -> str:
    return f"the model has {len(classes)}: {_list(classes)}"


def _is_whole_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _suggest(label: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, classes, n=1)
    return f"{readable_name(label)}={near[0] if near else classes[0]}"


def _list(names: Sequence[str]) -> str:
    return list_names([readable_name(name) for name in names])
