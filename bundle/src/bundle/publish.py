"""Write a bundle so that a reader sees all its files or none.

All files are written to a temporary directory on the same volume and fsynced. One rename makes the bundle appear. Then
the dataset's pointer is replaced. When a trainer is killed before the rename, a directory `.tmp-*` stays. Readers
ignore it, and the next trainer of the same user removes it. A running trainer holds a lock on a file beside its
directory; a directory without a locked file is abandoned. The lock is on a file because NFS has no locks of directories
between machines.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from bundle import BundleError
from bundle.document import Document, Name, Sha256, explain, read_bounded
from bundle.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry, Manifest, read_manifest
from bundle.whole_file import fsync, write_whole

STAGING_PREFIX = ".tmp-"
LOCK_SUFFIX = ".lock"
MAX_POINTER_BYTES = 4096


class Pointer(Document):
    """The trainer's proposal for a dataset: a bundle, the sha256 of its model.h5, and the time of the proposal.

    promote: serve the bundle even if its accuracy is lower than that of the model that serves now.
    """

    bundle_id: Name
    sha256: Sha256
    proposed_at: AwareDatetime
    promote: bool = False


def file_sha256(path: Path) -> str:
    """Hash a file's bytes, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bundle_path(models: Path, bundle_id: str) -> Path:
    """Return the path of a bundle on the volume; the bundle need not exist."""
    return models / "bundles" / bundle_id


def list_bundles(models: Path) -> list[Path]:
    """List the directories of all published bundles, by name."""
    return sorted(path for path in (models / "bundles").glob("[!.]*") if path.is_dir())


@contextmanager
def staging(models: Path) -> Iterator[Path]:
    """Make a private directory on the models volume for a new bundle; it is removed unless it is published.

    Also removes the directories of this user's trainers that died. Raises BundleError when the volume cannot be
    written.
    """
    bundles = models / "bundles"
    try:
        bundles.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(bundles)
        lock, path = _make_staging(bundles)
    except OSError as error:
        raise BundleError(
            f"{bundles} cannot be written ({error.strerror}); a trainer needs a writable volume"
        ) from error
    try:
        yield path
    except OSError as error:
        raise BundleError(
            f"the bundle could not be written to {bundles}: {error.strerror}; nothing was published"
        ) from error
    finally:
        shutil.rmtree(path, ignore_errors=True)  # a published bundle was renamed: nothing to remove
        _lock_file(path).unlink(missing_ok=True)
        os.close(lock)


def publish(staged: Path, models: Path, manifest: Manifest) -> Manifest:
    """Publish the staged files as bundle `manifest.bundle_id`; return the manifest with their hashes.

    Raises BundleError when that bundle exists already, or when readers would refuse its manifest. Does not change the
    pointer: `point` does.
    """
    files = {
        path.name: FileEntry(sha256=file_sha256(path), size=path.stat().st_size) for path in sorted(staged.iterdir())
    }
    complete = manifest.model_copy(update={"files": files})
    (staged / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2) + "\n")
    read_manifest(staged / MANIFEST_FILE)  # as every reader does
    for path in staged.iterdir():
        path.chmod(0o644)
        fsync(path)
    staged.chmod(0o755)  # mkdtemp makes it private, but readers run as another user
    fsync(staged)
    target = bundle_path(models, manifest.bundle_id)
    try:
        staged.rename(target)  # fails when target holds files: a bundle is never overwritten
    except OSError as error:
        if target.exists():
            raise BundleError(
                f"bundle {manifest.bundle_id} is published already; a bundle is never overwritten"
            ) from error
        raise
    fsync(target.parent)
    return complete


def point(models: Path, manifest: Manifest, *, promote: bool = False) -> None:
    """Propose a published bundle for its dataset: replace the pointer in one step.

    promote: see Pointer. Raises BundleError when the volume cannot be written; then the old pointer stays.
    """
    pointer = Pointer(
        bundle_id=manifest.bundle_id,
        sha256=manifest.files[MODEL_FILE].sha256,
        proposed_at=datetime.now(UTC),
        promote=promote,
    )
    current = models / "current"
    try:
        current.mkdir(parents=True, exist_ok=True)
        with write_whole(current / f"{manifest.dataset}.json", any_kind=True) as file:
            file.write(f"{pointer.model_dump_json()}\n".encode())
    except OSError as error:
        raise BundleError(
            f"{current} cannot be written ({error.strerror}); {manifest.bundle_id} is published but not proposed"
        ) from error


def remove_bundles(models: Path, bundle_ids: Iterable[str]) -> None:
    """Delete published bundles; a reader sees each of them whole or not at all.

    A killed removal leaves directories `.tmp-*`; the next removal or the next trainer removes them. Raises BundleError
    when the volume cannot be written.
    """
    bundles = models / "bundles"
    try:
        for bundle_id in bundle_ids:
            aside = tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=bundles)
            with suppress(FileNotFoundError):  # another removal was faster
                bundle_path(models, bundle_id).rename(aside)
        _remove_abandoned(bundles)
    except OSError as error:
        raise BundleError(
            f"{bundles} cannot be written ({error.strerror}); bundles are deleted where the trainer can write them"
        ) from error


def read_pointer(path: Path) -> Pointer:
    """Read one `models/current/<dataset>.json`. Raises BundleError when it is missing, no regular file or malformed."""
    try:
        return Pointer.model_validate_json(read_bounded(path, MAX_POINTER_BYTES))
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); train a model first: pyml train") from error
    except ValidationError as error:
        raise BundleError(f"{path} is not a valid pointer: {explain(error)}") from error


def pointers(models: Path) -> dict[str, Path]:
    """Return the pointer file of each dataset that has one."""
    return {path.stem: path for path in sorted((models / "current").glob("[!.]*.json"))}


def _lock_file(directory: Path) -> Path:
    return directory.with_name(directory.name + LOCK_SUFFIX)


def _make_staging(bundles: Path) -> tuple[int, Path]:
    """Make a directory after its file is locked; return the file's handle, which holds the lock, and the directory."""
    while True:
        handle, name = tempfile.mkstemp(prefix=STAGING_PREFIX, suffix=LOCK_SUFFIX, dir=bundles)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if Path(name).exists():
            path = Path(name.removesuffix(LOCK_SUFFIX))
            path.mkdir(mode=0o700)
            return handle, path
        os.close(handle)  # another process found it before it was locked, and removed it


def _remove_abandoned(bundles: Path) -> None:
    for path in {path.with_name(path.name.removesuffix(LOCK_SUFFIX)) for path in bundles.glob(STAGING_PREFIX + "*")}:
        lock_file = _lock_file(path)
        try:
            handle = os.open(lock_file, os.O_RDWR)
        except FileNotFoundError:  # abandoned, or published after it was listed; then there is nothing to remove
            shutil.rmtree(path, ignore_errors=True)
            continue
        except PermissionError:
            continue  # it is of another user, whose next trainer removes it if it is abandoned
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its trainer is running
        else:
            shutil.rmtree(path, ignore_errors=True)
            lock_file.unlink(missing_ok=True)
        finally:
            os.close(handle)
