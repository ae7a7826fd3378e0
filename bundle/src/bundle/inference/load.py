"""Load a model.tflite for predictions: from a bundle, or from bytes before they are published."""

from collections.abc import Callable

from bundle import BundleError
from bundle.inference.model import Model
from bundle.inference.signature import Signature
from bundle.inference.trial import never, try_model
from bundle.manifest import MAX_BYTES, SERVING_FILE, InputSpec
from bundle.verify import Bundle

MAX_MODEL_BYTES = MAX_BYTES[SERVING_FILE]  # a worker holds the file and a copy for each interpreter in memory


def load_model(bundle: Bundle, stopped: Callable[[], bool] = never) -> Model:
    """Read a bundle's model.tflite, compare it with the manifest, try it, start it.

    stopped: see try_model. Raises BundleError.
    """
    manifest, path = bundle.manifest, bundle.path / SERVING_FILE
    content = bundle.read(SERVING_FILE)
    try:
        model = start_model(content, manifest.input, len(manifest.classes), stopped)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    if model.rows != manifest.serving.rows:
        raise BundleError(f"{path} takes {model.rows} rows, the manifest says {manifest.serving.rows}; retrain it")
    return model


def start_model(content: bytes, spec: InputSpec, n_classes: int, stopped: Callable[[], bool] = never) -> Model:
    """Try the bytes of a model.tflite in a separate process, then start the interpreter here. Raises BundleError."""
    if len(content) > MAX_MODEL_BYTES:
        raise BundleError(
            f"{SERVING_FILE} has {len(content)} bytes, at most {MAX_MODEL_BYTES} are served; train a smaller model"
        )
    signature = Signature(spec.dtype, spec.shape, n_classes)
    try_model(content, signature, stopped)
    return Model(content, signature)
