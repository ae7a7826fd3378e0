"""Check a bundle before it is used.

The order matters: the manifest, then size and sha256 of every file, then the structure of the HDF5 file, and only then
Keras loads it. The structure is checked in a private copy, and that copy is loaded. Keras alone is not safe with a
forged file: CVE-2025-9905 (safe_mode ignored for .h5), CVE-2026-1669 (external datasets read host files).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from bundle import BundleError
from bundle.layers import ALLOWED_LAYERS
from bundle.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    SPLIT_FILE,
    TEST_SET_FILE,
    Manifest,
    read_manifest,
)
from bundle.publish import bundle_path, file_sha256, read_pointer

MAX_FILE_BYTES = 4 * 2**30
PLAIN_MODULES = ("keras.initializers", "keras.regularizers", "keras.constraints")  # arithmetic on weights
CONTAINERS = {"Sequential", "Functional", "__keras_tensor__"}
REQUIRED_FILES = (MODEL_FILE, TEST_SET_FILE, PREDICTIONS_FILE, SPLIT_FILE)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have the sizes and hashes in its manifest."""

    path: Path
    manifest: Manifest

    @property
    def model_sha256(self) -> str:
        """Hash of model.h5."""
        return self.manifest.files[MODEL_FILE].sha256


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


def check_h5(path: Path) -> None:
    """Refuse an HDF5 model file that links to other files, declares more data than it holds, or has unknown layers.

    path must be a private copy. Raises BundleError.
    """
    size = path.stat().st_size
    try:
        with h5py.File(path, "r") as file:
            _check_links(file)
            declared = sum(_declared_bytes(item) for item in _objects(file))
            if declared > size:
                raise BundleError(f"model.h5 declares {declared} bytes of data in a file of {size}; refused")
            _check_layers(file)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"model.h5 is not a readable HDF5 model ({error}); restore or retrain it") from error


def _measure(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and its sha256; the sha256 is empty for a file that is too large."""
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is missing or not a plain file; the bundle is incomplete")
        size = path.stat().st_size
        return size, file_sha256(path) if size <= MAX_FILE_BYTES else ""
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); allow this user to read it") from error


def _check_links(group: h5py.Group) -> None:
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise BundleError(
                f"model.h5 holds a {type(link).__name__} at {group.name}/{name}; only plain data is allowed"
            )
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_links(item)
        elif not isinstance(item, h5py.Dataset):
            raise BundleError(f"model.h5 holds a {type(item).__name__} at {item.name}; only plain data is allowed")
        elif item.is_virtual or item.external:
            raise BundleError(f"model.h5 reads {item.name} from another file; only plain data is allowed")


def _objects(group: h5py.Group) -> Iterator[h5py.Group | h5py.Dataset]:
    yield group
    found: list[h5py.Group | h5py.Dataset] = []
    group.visititems(lambda _, item: found.append(item))
    yield from found


def _declared_bytes(item: h5py.Group | h5py.Dataset) -> int:
    data = item.size * item.dtype.itemsize if isinstance(item, h5py.Dataset) and item.size else 0
    attributes = (h5py.h5a.open(item.id, name.encode()) for name in item.attrs)
    # Not get_storage_size: h5py treats its 0 as an error, and each layer without weights has such an empty attribute.
    return int(data + sum(a.get_space().get_simple_extent_npoints() * a.get_type().get_size() for a in attributes))


def _check_layers(file: h5py.File) -> None:
    if "model_config" not in file.attrs:
        raise BundleError("model.h5 holds no model_config; it is not a complete Keras model")
    for entry in _serialized_objects(json.loads(file.attrs["model_config"])):
        module, name = entry.get("module"), entry["class_name"]
        plain = module in PLAIN_MODULES or (module, name) == ("keras", "DTypePolicy")
        layer = module in (None, "keras.layers") and name in ALLOWED_LAYERS | CONTAINERS
        if not (plain or layer) or entry.get("registered_name"):
            raise BundleError(
                f"model.h5 holds {module or 'a layer'} {name}, which is not on the allow-list; refused without loading"
            )


def _serialized_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield each part of Keras's JSON that Keras would convert to an object."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for child in value.values():
            yield from _serialized_objects(child)
    elif isinstance(value, list):
        for child in value:
            yield from _serialized_objects(child)
