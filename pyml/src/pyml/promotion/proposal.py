"""Which of the models that one command trained is proposed as its dataset's current model, and why others are not.

Of each dataset it is the best on the validation set: the test set only judges. A model that `verdict` objects to is not
proposed, nor, unless the user asks for it, one with a lower accuracy than the current model's on the same test set.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError
from bundle.manifest import MANIFEST_FILE, Manifest, read_manifest
from bundle.promotion import compare_accuracy, is_worse
from bundle.publish import bundle_path, point, pointers, read_pointer
from bundle.verify import Bundle
from pyml.evaluation.history import read_history
from pyml.experiment.gate import Gate
from pyml.promotion.diagnosis import objections

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A published bundle, and what its experiment asks of it."""

    bundle: Bundle
    gate: Gate | None

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def validation(self) -> tuple[float, float]:
        """Accuracy on the validation set and, where two are equal, the negative loss; both after the best epoch."""
        epoch = read_history(self.bundle.path)[self.manifest.best_epoch - 1]
        return epoch["val_accuracy"], -epoch["val_loss"]


def propose_best(models: Path, candidates: Sequence[Candidate], *, promote: bool = False) -> None:
    """Propose, of each dataset, the candidate that is best on the validation set; log who is proposed, and who is not.

    promote: propose it also where its accuracy is below the current model's. Raises BundleError or PymlError.
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
    """Make a published bundle its dataset's current one, unless it is worse than that. Raises BundleError."""
    before = _current(models, manifest.dataset)
    if before is None:
        point(models, manifest, promote=promote)
    elif promote or not (before.bundle_id == manifest.bundle_id or is_worse(manifest, before)):
        log.info("%s is proposed: %s", manifest.bundle_id, compare_accuracy(manifest, before))
        point(models, manifest, promote=promote)
    elif before.bundle_id != manifest.bundle_id:
        log.warning(
            "%s is not proposed: %s; `--promote` proposes it all the same",
            manifest.bundle_id,
            compare_accuracy(manifest, before),
        )


def current_bundles(models: Path) -> dict[str, str]:
    """Tell which bundle is proposed for each dataset; a pointer that cannot be read is left out."""
    found = {}
    for dataset, path in pointers(models).items():
        try:
            found[dataset] = read_pointer(path).bundle_id
        except BundleError as error:
            log.warning("left out: %s", error)
    return found


def _current(models: Path, dataset: str) -> Manifest | None:
    """Read the manifest of the dataset's current model; None where there is none, or none that can be read."""
    path = pointers(models).get(dataset)
    if path is None:
        return None
    try:
        return read_manifest(bundle_path(models, read_pointer(path).bundle_id) / MANIFEST_FILE)
    except BundleError as error:
        log.warning("no accuracy to compare with: %s", error)
        return None
