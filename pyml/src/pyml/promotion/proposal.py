"""Propose the best model of a command as the current model of its dataset, and log why others are not proposed.

The best model of a dataset has the highest validation accuracy; the test set is only for evaluation. A model with
objections (see `diagnosis`) is not proposed. A model that has a lower accuracy than the current model on the same test
set is proposed only if the user asks for it (--promote).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError
from bundle.manifest import HISTORY_FILE, MANIFEST_FILE, Manifest, read_manifest
from bundle.promotion import compare_accuracy, is_worse
from bundle.publish import bundle_path, point, pointers, read_pointer
from bundle.verify import Bundle
from pyml import PymlError
from pyml.evaluation.history import read_history
from pyml.experiment.gate import Gate
from pyml.promotion.diagnosis import objections

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A published bundle, and the gate (`promote_if`) of its experiment."""

    bundle: Bundle
    gate: Gate | None

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    @property
    def validation(self) -> tuple[float, float]:
        """Validation accuracy and negative validation loss of the best epoch; the greater tuple is the better model."""
        best = self.manifest.best_epoch
        try:
            epoch = read_history(self.bundle.path)[best - 1]
            return epoch["val_accuracy"], -epoch["val_loss"]
        except (IndexError, KeyError) as error:
            path = self.bundle.path / HISTORY_FILE
            raise PymlError(f"{path} has no val_accuracy and val_loss of epoch {best}; train again") from error


def propose_best(models: Path, candidates: Sequence[Candidate], *, promote: bool = False) -> None:
    """Propose the best candidate of each dataset on the validation set. Log which are proposed and which are not.

    promote: propose it even if its accuracy is below the current model's. Raises BundleError or PymlError.
    """
    for dataset in dict.fromkeys(candidate.manifest.dataset for candidate in candidates):
        trained = [candidate for candidate in candidates if candidate.manifest.dataset == dataset]
        fit = []
        for candidate in trained:
            if reasons := objections(candidate.manifest.metrics, candidate.gate):
                log.warning("%s is not proposed: %s", candidate.manifest.bundle_id, " and ".join(reasons))
            else:
                fit.append(candidate)
        if not fit:
            continue
        best = max(fit, key=lambda candidate: candidate.validation)
        if len(trained) > 1:
            log.info(
                "%s: %s is the best of %d experiments on the validation set, accuracy %.4f",
                dataset,
                best.manifest.bundle_id,
                len(trained),
                best.validation[0],
            )
        propose(models, best.manifest, promote=promote)


def propose(models: Path, manifest: Manifest, *, promote: bool = False) -> None:
    """Make a published bundle the current one of its dataset, unless it is worse. Raises BundleError.

    promote: make it the current one even if it is worse.
    """
    before = _current(models, manifest.dataset)
    if before is None:
        point(models, manifest, promote=promote)
    elif promote or not (before.bundle_id == manifest.bundle_id or is_worse(manifest, before)):
        log.info("%s is proposed: %s", manifest.bundle_id, compare_accuracy(manifest, before))
        point(models, manifest, promote=promote)
    elif before.bundle_id != manifest.bundle_id:
        log.warning(
            "%s is not proposed: %s; use --promote to propose it anyway",
            manifest.bundle_id,
            compare_accuracy(manifest, before),
        )


def current_bundles(models: Path) -> dict[str, str]:
    """Give the proposed bundle's id for each dataset. Skip a pointer that cannot be read, and log it."""
    found = {}
    for dataset, path in pointers(models).items():
        try:
            found[dataset] = read_pointer(path).bundle_id
        except BundleError as error:
            log.warning("skipped: %s", error)
    return found


def _current(models: Path, dataset: str) -> Manifest | None:
    """Read the manifest of the dataset's current model; None if there is none, or if it cannot be read."""
    path = pointers(models).get(dataset)
    if path is None:
        return None
    try:
        return read_manifest(bundle_path(models, read_pointer(path).bundle_id) / MANIFEST_FILE)
    except BundleError as error:
        log.warning("the accuracy of the current model is not known: %s", error)
        return None
