"""The models of a worker: verify them, load them, and check their inputs and outputs."""

import faulthandler
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.inference.trial import never
from bundle.publish import bundle_path
from bundle.split import content_sha256, read_split
from bundle.terminal import log_fields
from bundle.verify import Bundle, open_bundle
from pypredict.codec import Array
from pypredict.refusals import Refusals, explain_refusal, state_of
from pypredict.registry import Model, WantedModel
from pypredict.store import Inputs

log = logging.getLogger(__name__)

MAX_CALL_SECONDS = 3600.0  # of one call; a forged model may hold a loop that ends for zeros only, as in its trial

Probabilities = npt.NDArray[np.float32]
Predict = Callable[[Array], Probabilities]
Hashes = npt.NDArray[np.uint64]


def load_predict(bundle: Bundle, stopped: Callable[[], bool] = never) -> Predict:
    """Load a bundle's model; arrays (n, ...) in, probabilities (n, k) float32 out. Raises BundleError.

    stopped: whether to end the trial of the model early.
    """
    from bundle.inference.load import load_model

    log.info("loading %s", bundle.manifest.bundle_id)
    return load_model(bundle, stopped).predict


def open_registered(directory: Path, model: WantedModel | Model) -> Bundle:
    """Open the bundle of a registered model. Raises BundleError when it holds other files than the registered ones."""
    path = bundle_path(directory, model.bundle_id)
    if not path.is_dir():
        raise BundleError(
            f"there is no bundle {model.bundle_id} in {directory.resolve()}; restore it, or set the models directory "
            "with --models or PYPREDICT_MODELS"
        )
    bundle = open_bundle(path)
    if not _is_registered(bundle, model):
        raise BundleError(f"bundle {model.bundle_id} holds another model than the registered one; restore it")
    return bundle


def _is_registered(bundle: Bundle, model: WantedModel | Model) -> bool:
    return (bundle.model_sha256, bundle.serving_sha256) == (model.sha256, model.serving_sha256)


class Models:
    """Loaded models by their number in ml.model. `loaded`, `predict` and `refuse` may run beside `servable`."""

    def __init__(self, directory: Path, load: Callable[[Bundle], Predict] = load_predict) -> None:
        self._directory = directory
        self._load = load
        self._bundles: dict[int, Bundle] = {}
        self._predicts: dict[int, Predict] = {}
        self._training: dict[int, Hashes] = {}
        self._kept: set[int] = set()  # loaded, before they serve
        self._refusals = Refusals()
        self._lock = threading.Lock()

    @contextmanager
    def loaded(self, model_id: int, bundle: Bundle) -> Iterator[None]:
        """Load a model and test one prediction; keep it for the block, in which it begins to serve.

        Raises BundleError.
        """
        predict, training = self._open(bundle)  # may take minutes: without the lock
        with self._lock:
            self._predicts[model_id], self._training[model_id] = predict, training
            self._bundles[model_id] = bundle
            self._kept.add(model_id)
        try:
            yield
        finally:
            self._kept.discard(model_id)

    def servable(self, wanted: Sequence[WantedModel], *, lazily: bool) -> tuple[list[int], list[str]]:
        """Return which of the wanted models can serve, and one sentence for each other model.

        Verifies new models and drops models that are no longer wanted. lazily=False: also loads new models, and tries a
        refused model again later (see `refusals`). A refused model is logged once.
        """
        with self._lock:
            for model in wanted:
                if self._refusals.problem(model.model_id) is None or not (lazily or self._must_wait(model)):
                    self._try(model, lazily)
            keep = {model.model_id for model in wanted} | self._kept
            for held in (self._bundles, self._predicts, self._training):
                for model_id in held.keys() - keep:
                    del held[model_id]
            self._refusals.keep(keep)
            return list(self._bundles), self._refusals.problems()

    def problem(self, model_id: int) -> str | None:
        """Return the reason for which a model is refused; None when it is not refused."""
        return self._refusals.problem(model_id)

    def refuse(self, model_id: int, problem: str) -> None:
        """Stop serving a model, for this reason."""
        with self._lock:
            bundle = self._bundles.get(model_id)
            self._refuse(model_id, "" if bundle is None else state_of(bundle.path), problem)

    def _must_wait(self, model: WantedModel) -> bool:
        return self._refusals.waiting(model.model_id, self._state_of(model)) is not None

    def _try(self, model: WantedModel, lazily: bool) -> None:
        """Verify a model and, unless lazily, load it; refuse it for any error."""
        state, held = self._state_of(model), self._bundles.get(model.model_id)
        if held is not None and not _is_registered(held, model):
            # After a failover the database may be without its last models, and give their numbers to others.
            self._forget(model.model_id)
        try:
            if model.model_id not in self._bundles:
                self._bundles[model.model_id] = open_registered(self._directory, model)
            if not lazily:
                self._loaded(model.model_id)
        except Exception as error:  # a bundle that changed may cause any error
            self._refuse(model.model_id, state, explain_refusal(bundle_path(self._directory, model.bundle_id), error))
        else:
            self._refusals.drop(model.model_id)

    def _state_of(self, model: WantedModel) -> str:
        return state_of(bundle_path(self._directory, model.bundle_id))

    def _refuse(self, model_id: int, state: str, problem: str) -> None:
        self._forget(model_id)
        if self._refusals.add(model_id, state, problem):
            log.error(
                "model %d is not served: %s", model_id, problem, extra=log_fields(model=model_id, problem=problem)
            )

    def _forget(self, model_id: int) -> None:
        for cache in (self._bundles, self._predicts, self._training):
            cache.pop(model_id, None)

    def in_training(self, model_id: int, arrays: Array) -> npt.NDArray[np.bool_]:
        """Return for each array (n, ...) whether the same content was in the training or validation part; (n,)."""
        hashes, learned = _hashes(map(content_sha256, arrays)), self._training[model_id]
        place = np.searchsorted(learned, hashes)
        return np.asarray(np.append(learned, np.uint64(0))[place] == hashes)

    def predict(self, model_id: int, inputs: Inputs) -> tuple[Inputs, Probabilities]:
        """Predict the inputs. An input with NaN or infinity, or with an invalid output, becomes an error.

        Returns the predicted inputs (with all errors) and their probabilities (n, k). Raises BundleError when the
        model does not load. An error of the model itself is not caught.
        """
        predict = self._loaded(model_id)
        if inputs.arrays.dtype.kind == "f":
            finite = np.isfinite(inputs.arrays).reshape(len(inputs.arrays), -1).all(axis=1)
            inputs = inputs.keep(np.asarray(finite), "not_finite", "the array holds NaN or infinity")
        if not len(inputs.input_ids):
            return inputs, np.empty((0, 0), np.float32)
        # A call without an end ends the process, like a crash of the interpreter. The watchdog needs no Python to run.
        faulthandler.dump_traceback_later(MAX_CALL_SECONDS, exit=True, file=2)
        try:
            probabilities = predict(inputs.arrays)
        finally:
            faulthandler.cancel_dump_traceback_later()
        if probabilities.shape != (len(inputs.arrays), len(self._bundles[model_id].manifest.classes)):
            probabilities = np.full((len(inputs.arrays), 1), np.nan, np.float32)
        good = np.asarray(((probabilities >= 0) & (probabilities <= 1.0001)).all(axis=1))  # also False for NaN
        return inputs.keep(good, "bad_output", "the model gave no probability for each class"), probabilities[good]

    def _loaded(self, model_id: int) -> Predict:
        if model_id not in self._predicts:
            self._predicts[model_id], self._training[model_id] = self._open(self._bundles[model_id])
        return self._predicts[model_id]

    def _open(self, bundle: Bundle) -> tuple[Predict, Hashes]:
        """Load a model and the hashes of its training samples. Every error becomes a BundleError."""
        try:
            return self._load(bundle), _read_training(bundle)
        except Exception as error:
            raise BundleError(explain_refusal(bundle.path, error)) from error


def _read_training(bundle: Bundle) -> Hashes:
    """Read the hashes of the training and validation samples of a model, sorted. Raises BundleError."""
    rows = read_split(bundle)
    return np.sort(_hashes(bytes.fromhex(row.sha256) for row in rows if row.part != "test"))


def _hashes(digests: Iterable[bytes]) -> Hashes:
    """Keep 8 bytes of each digest: enough to distinguish samples, and a numpy dtype."""
    return np.frombuffer(b"".join(digest[:8] for digest in digests), np.uint64)
