"""The models a worker can serve: verified, loaded, and their outputs checked."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.publish import bundle_path
from bundle.verify import Bundle, open_bundle
from pypredict.codec import Array
from pypredict.store import Inputs

log = logging.getLogger(__name__)

Probabilities = npt.NDArray[np.float32]
Predict = Callable[[Array], Probabilities]


def load_predict(bundle: Bundle) -> Predict:
    """Load a bundle's Keras model; arrays (n, ...) in, probabilities (n, k) float32 out. Raises BundleError."""
    from bundle.model import load_model, predict_probabilities

    log.info("loading %s", bundle.manifest.bundle_id)
    model, n_classes = load_model(bundle), len(bundle.manifest.classes)
    return lambda arrays: predict_probabilities(model, arrays, n_classes)


class Models:
    """Loaded models by their number in ml.model. Not for several threads at once, but for `predict`."""

    def __init__(self, directory: Path, load: Callable[[Bundle], Predict] = load_predict) -> None:
        self._directory = directory
        self._load = load
        self._bundles: dict[int, Bundle] = {}
        self._predicts: dict[int, Predict] = {}
        self._refused: set[int] = set()

    def load(self, bundle: Bundle) -> Predict:
        """Load and try a model, before anything depends on it. Raises BundleError."""
        return self._load(bundle)

    def admit(self, model_id: int, bundle: Bundle, predict: Predict) -> None:
        """Serve a model that was loaded."""
        self._bundles[model_id], self._predicts[model_id] = bundle, predict

    def servable(self, wanted: Sequence[tuple[int, str, str]], *, lazily: bool) -> tuple[list[int], list[str]]:
        """Say which of the wanted (model_id, bundle_id, sha256) can be served, and what is wrong with the others.

        Verifies and, unless lazily, loads those that are new; forgets the models that are wanted no longer. A refused
        model is tried again each time, but named in the log once.
        """
        problems = []
        for model_id, bundle_id, sha256 in wanted:
            try:
                self._verify(model_id, bundle_id, sha256)
                if not lazily:
                    self._loaded(model_id)
            except BundleError as error:
                problems.append(str(error))
                self._bundles.pop(model_id, None)
                if model_id not in self._refused:
                    log.error("model %d is not served: %s", model_id, error)
                    self._refused.add(model_id)
        keep = {model_id for model_id, _, _ in wanted}
        for held in (self._bundles, self._predicts):
            for model_id in held.keys() - keep:
                del held[model_id]
        return list(self._bundles), problems

    def predict(self, model_id: int, inputs: Inputs) -> tuple[Inputs, Probabilities]:
        """Predict the finite inputs; the others, and those without a proper output, become errors.

        Returns the predicted inputs (with all errors) and their probabilities (n, k). Raises BundleError when the
        model does not load, and whatever the model raises.
        """
        predict = self._loaded(model_id)
        if inputs.arrays.dtype.kind == "f":
            finite = np.isfinite(inputs.arrays).reshape(len(inputs.arrays), -1).all(axis=1)
            inputs = inputs.keep(np.asarray(finite), "not_finite", "the array holds NaN or infinity")
        if not len(inputs.input_ids):
            return inputs, np.empty((0, 0), np.float32)
        probabilities = predict(inputs.arrays)
        if probabilities.shape != (len(inputs.arrays), len(self._bundles[model_id].manifest.classes)):
            probabilities = np.full((len(inputs.arrays), 1), np.nan, np.float32)
        good = np.asarray(((probabilities >= 0) & (probabilities <= 1.0001)).all(axis=1))  # False for NaN, too
        return inputs.keep(good, "bad_output", "the model gave no probability for each class"), probabilities[good]

    def _verify(self, model_id: int, bundle_id: str, sha256: str) -> None:
        if model_id in self._bundles:
            return
        bundle = open_bundle(bundle_path(self._directory, bundle_id))
        if bundle.model_sha256 != sha256:
            raise BundleError(f"bundle {bundle_id} holds another model than the one registered; restore it")
        self._bundles[model_id] = bundle

    def _loaded(self, model_id: int) -> Predict:
        if model_id not in self._predicts:
            self._predicts[model_id] = self._load(self._bundles[model_id])
        return self._predicts[model_id]
