"""Check a bundle before it is used: the manifest first, then size and sha256 of every file.

`inference` checks the content of model.tflite when it loads it. No reader opens model.h5, because Keras is not safe
with a forged file: CVE-2025-9905 (safe_mode ignored for .h5), CVE-2026-1669 (external datasets read host files).
"""

from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError
from bundle.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    SERVING_FILE,
    SPLIT_FILE,
    TEST_SET_FILE,
    Manifest,
    read_manifest,
)
from bundle.publish import bundle_path, file_sha256, read_pointer

MAX_FILE_BYTES = 4 * 2**30
REQUIRED_FILES = (MODEL_FILE, SERVING_FILE, TEST_SET_FILE, PREDICTIONS_FILE, SPLIT_FILE)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have the sizes and hashes in its manifest."""

    path: Path
    manifest: Manifest

    @property
    def model_sha256(self) -> str:
        """Hash of model.h5."""
        return self.manifest.files[MODEL_FILE].sha256

    @property
    def serving_sha256(self) -> str:
        """Hash of model.tflite."""
        return self.manifest.files[SERVING_FILE].sha256


def open_bundle(path: Path) -> Bundle:
    """Read the manifest and compare every file with it.

    Raises BundleError, which names the file that is missing or has another size or hash.
    """
    manifest = read_manifest(path / MANIFEST_FILE)
    if path.resolve().name != manifest.bundle_id:
        raise BundleError(
            f"{path} holds bundle {manifest.bundle_id}; a bundle's directory has its name: rename the directory back"
        )
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST_FILE} does not list {name}; the bundle is incomplete")
    for name, entry in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(f"{path / MANIFEST_FILE} lists {name!r}; a bundle's files are beside its manifest")
        size, digest = _measure(path / name)
        if size != entry.size or size > MAX_FILE_BYTES:
            raise BundleError(f"{path / name} has {size} bytes, the manifest says {entry.size}; publish it again")
        if digest != entry.sha256:
            raise BundleError(
                f"{path / name} has sha256 {digest[:12]}..., the manifest says {entry.sha256[:12]}...: "
                "the file was changed after it was published; restore or retrain it"
            )
    return Bundle(path, manifest)


def open_current(models: Path, pointer_path: Path) -> Bundle:
    """Open the bundle that a pointer names. Raises BundleError, also when the pointer and the manifest disagree."""
    pointer = read_pointer(pointer_path)
    bundle = open_bundle(bundle_path(models, pointer.bundle_id))
    if bundle.model_sha256 != pointer.sha256 or bundle.manifest.dataset != pointer_path.stem:
        raise BundleError(f"{pointer_path} and the manifest of {pointer.bundle_id} name different models; train again")
    return bundle


def _measure(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and its sha256; the sha256 is empty for a file that is too large."""
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is missing or not a plain file; the bundle is incomplete")
        size = path.stat().st_size
        return size, file_sha256(path) if size <= MAX_FILE_BYTES else ""
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); allow this user to read it") from error
