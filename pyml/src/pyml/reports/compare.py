"""Compare published runs: figures on the test set, of the last epoch, and how far both are from a baseline's.

Runs are compared with those of the same dataset only. Where the arrays differ (another split, other preprocessing),
a run is marked: its test figures are not measured on what the baseline's are.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError
from bundle.manifest import MANIFEST_FILE, Manifest, read_manifest
from pyml import PymlError
from pyml.evaluation.history import Epoch, read_history
from pyml.experiment.gate import Gate
from pyml.promotion.diagnosis import objections
from pyml.promotion.proposal import current_bundles

log = logging.getLogger(__name__)

CURVES = ("loss", "val_loss", "accuracy", "val_accuracy")  # figures of each epoch that are drawn


@dataclass(frozen=True)
class PublishedRun:
    """A bundle's manifest, the figures of its epochs, and whether it is proposed as its dataset's current model."""

    manifest: Manifest
    epochs: list[Epoch]
    proposed: bool = False

    @property
    def name(self) -> str:
        """The bundle's id."""
        return self.manifest.bundle_id

    @property
    def remarks(self) -> list[str]:
        """Say that it is proposed, or why it is not to be."""
        if self.proposed:
            return ["proposed"]
        asked = self.manifest.experiment.get("promote_if")
        gate = None if asked is None else Gate.model_validate(asked)
        return [f"not proposed: {reason}" for reason in objections(self.manifest.metrics, gate)]

    def first(self, curve: str) -> float | None:
        """Give a figure of the first epoch."""
        return self.epochs[0].get(curve) if self.epochs else None

    def last(self, curve: str) -> float | None:
        """Give a figure of the last epoch."""
        return self.epochs[-1].get(curve) if self.epochs else None


@dataclass(frozen=True)
class Column:
    """A figure to compare; higher says whether more of it is better, None that it is neither."""

    title: str
    value: Callable[[PublishedRun], float | None]
    higher: bool | None
    digits: int = 4
    curve: str | None = None  # of which the figure is the last value


@dataclass(frozen=True)
class Cell:
    """One run's figure: its value, its distance from the baseline's, and from the run's own first epoch."""

    value: float | None
    to_baseline: float | None
    to_first: float | None


@dataclass(frozen=True)
class Comparison:
    """The runs of one dataset, the baseline first."""

    dataset: str
    runs: tuple[PublishedRun, ...]

    @property
    def baseline(self) -> PublishedRun:
        """The run that the others are compared with."""
        return self.runs[0]

    def same_data(self, run: PublishedRun) -> bool:
        """Tell whether a run saw the very arrays that the baseline saw."""
        return run.manifest.data_sha256 == self.baseline.manifest.data_sha256

    def cells(self, run: PublishedRun) -> list[Cell]:
        """Give the run's figures, in the order of COLUMNS."""
        return [
            Cell(
                value=column.value(run),
                to_baseline=None if run is self.baseline else _minus(column.value(run), column.value(self.baseline)),
                to_first=_minus(column.value(run), run.first(column.curve)) if column.curve else None,
            )
            for column in COLUMNS
        ]


def _last(curve: str, higher: bool) -> Column:
    return Column(curve, lambda run: run.last(curve), higher, curve=curve)


COLUMNS = (
    Column("test accuracy", lambda run: run.manifest.metrics.accuracy, higher=True),
    Column("test AUROC", lambda run: run.manifest.metrics.auroc, higher=True),
    Column("test F1", lambda run: run.manifest.metrics.macro_f1, higher=True),
    *(_last(curve, higher=curve.endswith("accuracy")) for curve in CURVES),
    _last("val_auroc", higher=True),
    _last("seconds", higher=False),
    Column("total seconds", lambda run: run.manifest.train_seconds, higher=False, digits=1),
    Column("epochs", lambda run: run.manifest.epochs_trained, higher=None, digits=0),
    Column("parameters", lambda run: run.manifest.parameters, higher=None, digits=0),
)


def compare_runs(models: Path, baseline: str | None = None) -> list[Comparison]:
    """Compare all published runs, a dataset at a time.

    baseline is a bundle's id or an experiment's name, whose newest run it then is; else the oldest run of each dataset
    is the baseline. Raises PymlError when there is nothing to compare, or no such baseline.
    """
    runs = read_runs(models)
    if not runs:
        raise PymlError(f"{models / 'bundles'} holds no published run to compare; pyml train makes one")
    if baseline is None:
        firsts = {run.manifest.dataset: run for run in reversed(runs)}
    else:
        found = find_run(runs, baseline)
        firsts = {found.manifest.dataset: found}
    return [
        Comparison(name, (first, *(run for run in runs if run.manifest.dataset == name and run is not first)))
        for name, first in sorted(firsts.items())
    ]


def find_run(runs: Sequence[PublishedRun], name: str) -> PublishedRun:
    """Find a run by its bundle's id, else the newest of the experiment of that name. Raises PymlError."""
    for run in reversed(runs):
        if name == run.name:
            return run
    for run in reversed(runs):
        if name == run.manifest.name:
            return run
    raise PymlError(f"no published run is called {name}; there are {', '.join(run.name for run in runs)}")


def read_runs(models: Path) -> list[PublishedRun]:
    """Read all published runs, oldest first; one that cannot be read is named and left out."""
    runs = []
    proposed = current_bundles(models).values()
    for path in sorted((models / "bundles").glob(f"[!.]*/{MANIFEST_FILE}")):
        try:
            manifest = read_manifest(path)
            runs.append(PublishedRun(manifest, read_history(path.parent), manifest.bundle_id in proposed))
        except (BundleError, PymlError) as error:
            log.warning("left out: %s", error)
    return sorted(runs, key=lambda run: run.manifest.created_at)


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
