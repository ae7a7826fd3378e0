"""Check a bundle before it is used: the manifest first, then size and sha256 of every file.

A file of a bundle may be a FIFO, a link to a device, or of any size. So only regular files are opened, their sizes are
compared before they are read, and a file that is parsed is read once: the parsed bytes are the hashed ones.

`inference` checks the content of model.tflite when it loads it. No reader opens model.h5, because Keras is not safe
with a forged file: CVE-2025-9905 (safe_mode ignored for .h5), CVE-2026-1669 (external datasets read host files).
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError
from bundle.document import read_bounded
from bundle.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    SERVING_FILE,
    SPLIT_FILE,
    TEST_SET_FILE,
    FileEntry,
    Manifest,
    read_manifest,
)
from bundle.publish import bundle_path, read_pointer
from bundle.regular_file import open_regular

BLOCK_BYTES = 2**20
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

    def read(self, name: str) -> bytes:
        """Read a file whose bytes have the size and the hash in the manifest. Raises BundleError."""
        path, entry = self.path / name, self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path / MANIFEST_FILE} does not list {name}; the bundle is incomplete")
        try:
            content = read_bounded(path, entry.size)
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}); restore or retrain it") from error
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(f"{path} changed while it was being read; restore or retrain it")
        return content


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
        _check_file(path / name, entry)
    return Bundle(path, manifest)


def open_current(models: Path, pointer_path: Path) -> Bundle:
    """Open the bundle that a pointer names. Raises BundleError, also when the pointer and the manifest disagree."""
    pointer = read_pointer(pointer_path)
    bundle = open_bundle(bundle_path(models, pointer.bundle_id))
    if bundle.model_sha256 != pointer.sha256 or bundle.manifest.dataset != pointer_path.stem:
        raise BundleError(f"{pointer_path} and the manifest of {pointer.bundle_id} name different models; train again")
    return bundle


def _check_file(path: Path, entry: FileEntry) -> None:
    """Compare a file's size, then its sha256, with the manifest's entry. Raises BundleError."""
    try:
        with open_regular(path, follow_links=False) as file:
            size, digest = os.fstat(file.fileno()).st_size, hashlib.sha256()
            if size != entry.size:
                raise BundleError(f"{path} has {size} bytes, the manifest says {entry.size}; publish it again")
            for _ in range(0, size + 1, BLOCK_BYTES):  # to the end, unless the file grows meanwhile
                digest.update(file.read(BLOCK_BYTES))
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); a bundle needs all its files") from error
    found = digest.hexdigest()
    if found != entry.sha256:
        raise BundleError(
            f"{path} has sha256 {found[:12]}..., the manifest says {entry.sha256[:12]}...: "
            "the file was changed after it was published; restore or retrain it"
        )
