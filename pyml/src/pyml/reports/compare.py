"""Compare published runs with a baseline: metrics on the test set, and metrics of the last epoch.

Only runs of the same dataset are compared. A run is marked if its arrays differ from the baseline's (another split,
other preprocessing), because then the test metrics are not comparable.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bundle import BundleError
from bundle.document import explain
from bundle.history import Epoch
from bundle.manifest import MANIFEST_FILE, Manifest, read_manifest
from pyml import PymlError
from pyml.evaluation.history import read_history
from pyml.experiment.gate import Gate
from pyml.promotion.diagnosis import objections
from pyml.promotion.proposal import current_bundles

log = logging.getLogger(__name__)

CURVES = ("loss", "val_loss", "accuracy", "val_accuracy")  # the learning curves: one value per epoch


@dataclass(frozen=True)
class PublishedRun:
    """A bundle's manifest, its epochs, its gate, and whether it is proposed as the current model of its dataset."""

    manifest: Manifest
    epochs: list[Epoch]
    gate: Gate | None = None
    proposed: bool = False

    @property
    def name(self) -> str:
        """The bundle's id."""
        return self.manifest.bundle_id

    @property
    def remarks(self) -> list[str]:
        """The remark that the run is proposed, or the objections against it."""
        if self.proposed:
            return ["proposed"]
        return [f"not proposed: {reason}" for reason in objections(self.manifest.metrics, self.gate)]

    def first(self, curve: str) -> float | None:
        """Give the value of a learning curve in the first epoch."""
        return self.epochs[0].get(curve) if self.epochs else None

    def last(self, curve: str) -> float | None:
        """Give the value of a learning curve in the last epoch."""
        return self.epochs[-1].get(curve) if self.epochs else None


@dataclass(frozen=True)
class Column:
    """A metric to compare. higher: whether a higher value is better; None if neither is better."""

    title: str
    value: Callable[[PublishedRun], float | None]
    higher: bool | None
    digits: int = 4
    curve: str | None = None  # if the value is the last one of a learning curve, its name


@dataclass(frozen=True)
class Cell:
    """A metric of one run: its value, its difference to the baseline, and its difference to the run's first epoch."""

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
        """Tell whether a run used the same arrays as the baseline."""
        return run.manifest.data_sha256 == self.baseline.manifest.data_sha256

    def cells(self, run: PublishedRun) -> list[Cell]:
        """Give the cells of a run, in the order of COLUMNS."""
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


_TEST_METRICS = [
    Column("test accuracy", lambda run: run.manifest.metrics.accuracy, higher=True),
    Column("test AUROC", lambda run: run.manifest.metrics.auroc, higher=True),
    Column("test F1", lambda run: run.manifest.metrics.macro_f1, higher=True),
]
_LAST_VALUES = [_last(curve, higher=curve.endswith("accuracy")) for curve in CURVES]
_OTHERS = [
    _last("val_auroc", higher=True),
    _last("seconds", higher=False),
    Column("total seconds", lambda run: run.manifest.train_seconds, higher=False, digits=1),
    Column("epochs", lambda run: run.manifest.epochs_trained, higher=None, digits=0),
    Column("parameters", lambda run: run.manifest.parameters, higher=None, digits=0),
]
COLUMNS = (*_TEST_METRICS, *_LAST_VALUES, *_OTHERS)


def compare_runs(models: Path, baseline: str | None = None) -> list[Comparison]:
    """Compare all published runs of each dataset.

    baseline: the id of a bundle, or the name of an experiment, which means its newest run. Then only its dataset is
    compared. None: the oldest run of each dataset. Raises PymlError if there is no run or no such baseline.
    """
    runs = read_runs(models)
    if not runs:
        raise PymlError(f"{models / 'bundles'} holds no published run to compare; pyml train makes one")
    if baseline is None:
        firsts = {run.manifest.dataset: run for run in reversed(runs)}
    else:
        found = find_run(runs, baseline)
        firsts = {found.manifest.dataset: found}
    comparisons = []
    for name, first in sorted(firsts.items()):
        others = [run for run in runs if run.manifest.dataset == name and run is not first]
        comparisons.append(Comparison(name, (first, *others)))
    return comparisons


def find_run(runs: Sequence[PublishedRun], name: str) -> PublishedRun:
    """Find a run by the id of its bundle, else the newest run of the experiment with that name. Raises PymlError."""
    for run in reversed(runs):
        if name == run.name:
            return run
    for run in reversed(runs):
        if name == run.manifest.name:
            return run
    raise PymlError(f"no published run is called {name}; there are {', '.join(run.name for run in runs)}")


def read_runs(models: Path) -> list[PublishedRun]:
    """Read all published runs, oldest first. Skip a run that cannot be read, and log it."""
    runs = []
    proposed = current_bundles(models).values()
    for path in sorted((models / "bundles").glob(f"[!.]*/{MANIFEST_FILE}")):
        try:
            manifest = read_manifest(path)
            proposes = manifest.bundle_id in proposed
            runs.append(PublishedRun(manifest, read_history(path.parent), _read_gate(path, manifest), proposes))
        except (BundleError, PymlError) as error:
            log.warning("skipped: %s", error)
    return sorted(runs, key=lambda run: run.manifest.created_at)


def _read_gate(path: Path, manifest: Manifest) -> Gate | None:
    asked = manifest.experiment.get("promote_if")
    try:
        return None if asked is None else Gate.model_validate(asked)
    except ValidationError as error:
        raise BundleError(f"{path} holds no valid promote_if: {explain(error)}") from error


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
