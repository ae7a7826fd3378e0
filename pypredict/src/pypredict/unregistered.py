"""Bundles on the models volume that no model in the database names: what they are, and which of them stay."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bundle.publish import list_bundles, pointers, read_pointer
from pypredict import PypredictError


@dataclass(frozen=True)
class UnregisteredBundle:
    """A bundle without a model in the database: its size, and why it is not deleted; kept is None: it is."""

    bundle_id: str
    published_at: datetime
    bytes: int
    kept: str | None


def find_unregistered(models: Path, registered: Collection[str], age: timedelta) -> list[UnregisteredBundle]:
    """List the bundles that are not registered. Kept are those that a pointer names, and those younger than `age`.

    A bundle that a trainer is still writing is not listed. Raises PypredictError when there is no models volume, and
    BundleError for an invalid pointer, which may name any bundle.
    """
    if not (models / "bundles").is_dir():
        raise PypredictError(
            f"there is no directory {models / 'bundles'}; set the models volume with --models or PYPREDICT_MODELS"
        )
    proposed = {read_pointer(path).bundle_id: path for path in pointers(models).values()}
    newest = datetime.now(UTC) - age
    found = []
    for path in list_bundles(models):
        if path.name in registered or path.is_symlink():
            continue
        published_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        kept = "published only now, so a trainer may still propose it" if published_at > newest else None
        if path.name in proposed:
            kept = f"the pointer {proposed[path.name]} names it"
        found.append(UnregisteredBundle(path.name, published_at, _size(path), kept))
    return found


def _size(directory: Path) -> int:
    """Add up the bytes of all files below a directory; links are not followed."""
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(directory) for name in names)
