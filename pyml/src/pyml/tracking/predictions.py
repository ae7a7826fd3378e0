"""`predictions.csv` of a bundle, as the record needs it: its rows, and arrays of labels and probabilities."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bundle.manifest import PREDICTIONS_FILE
from pyml.evaluation.metrics import Labels, Probabilities


def read_rows(path: Path) -> Iterator[list[str]]:
    """Read the columns' names, then the rows: sample, label, predicted, confidence, one probability for each class."""
    with (path / PREDICTIONS_FILE).open(newline="", encoding="utf-8") as file:
        yield from csv.reader(file)


def read_probabilities(path: Path, classes: Sequence[str]) -> tuple[Labels, Probabilities]:
    """Read labels (n,) int64, and probabilities (n, n_classes) float32."""
    number = {name: label for label, name in enumerate(classes)}
    rows = read_rows(path)
    next(rows)
    labels, probabilities = [], []
    for _sample, label, _predicted, _confidence, *row in rows:
        labels.append(number[label])
        probabilities.append(np.array(row, np.float32))
    return np.array(labels, np.int64), np.array(probabilities, np.float32).reshape(len(labels), len(classes))
