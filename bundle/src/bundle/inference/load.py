"""Load the model that serves: of a bundle, or one that is about to become part of a bundle."""

import hashlib

from bundle import BundleError
from bundle.inference.model import Model
from bundle.inference.signature import Signature
from bundle.inference.trial import try_model
from bundle.manifest import SERVING_FILE, InputSpec
from bundle.verify import Bundle


def load_model(bundle: Bundle) -> Model:
    """Read a bundle's model.tflite, compare it with the manifest, try it, start it. Raises BundleError."""
    manifest, path = bundle.manifest, bundle.path / SERVING_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); its reader needs the right to") from error
    if hashlib.sha256(content).hexdigest() != bundle.serving_sha256:
        raise BundleError(f"{path} changed while it was being read; restore or retrain it")
    try:
        model = start_model(content, manifest.input, len(manifest.classes))
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    if model.rows != manifest.serving.rows:
        raise BundleError(f"{path} takes {model.rows} rows, the manifest says {manifest.serving.rows}; retrain it")
    return model


def start_model(content: bytes, spec: InputSpec, n_classes: int) -> Model:
    """Try the bytes of a model.tflite in a process of its own, then start the interpreter here. Raises BundleError."""
    signature = Signature(spec.dtype, spec.shape, n_classes)
    try_model(content, signature)
    return Model(content, signature)
