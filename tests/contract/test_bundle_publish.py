"""What a published bundle and its pointer hold, and that they are on the disk before they are visible."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.bundles import arrays_and_labels, files_of, manifest_for, publish_bundle

from bundle import BundleError
from bundle.publish import point, pointers, publish, read_pointer, staging


def test_publishing_the_same_id_twice_is_refused(tmp_path: Path) -> None:
    publish_bundle(tmp_path, "twice", seed=1)
    with pytest.raises(BundleError, match="bundle twice is published already"):
        publish_bundle(tmp_path, "twice", seed=2)


def test_a_refused_bundle_does_not_change_the_published_one(tmp_path: Path) -> None:
    first = publish_bundle(tmp_path, "twice", seed=1)
    before = files_of(first.path)
    with pytest.raises(BundleError):
        publish_bundle(tmp_path, "twice", seed=2)
    assert files_of(first.path) == before
    assert list((tmp_path / "bundles").iterdir()) == [first.path]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The calls of fsync and rename of this process in their order, each with the inode and the size of its file."""
    calls: list[tuple[str, int, int]] = []
    fsync = os.fsync

    def note(call: str, found: os.stat_result) -> None:
        calls.append((call, found.st_ino, found.st_size if stat.S_ISREG(found.st_mode) else 0))

    def note_fsync(handle: int) -> None:
        fsync(handle)
        note("fsync", os.fstat(handle))

    def noted(rename: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def note_rename(source: Path, target: Path) -> None:
            rename(source, target)
            note("rename", Path(target).stat())

        return note_rename

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", noted(os.rename))
    monkeypatch.setattr(os, "replace", noted(os.replace))
    return calls


def test_a_bundle_is_on_the_disk_before_it_is_visible(tmp_path: Path, disk: list[tuple[str, int, int]]) -> None:
    bundle = publish_bundle(tmp_path, proposed=False).path
    visible = disk.index(("rename", bundle.stat().st_ino, 0))
    written = {("fsync", path.stat().st_ino, path.stat().st_size) for path in bundle.iterdir()}
    assert written | {("fsync", bundle.stat().st_ino, 0)} <= set(disk[:visible])
    assert ("fsync", bundle.parent.stat().st_ino, 0) in disk[visible:]


def test_a_pointer_is_on_the_disk_before_it_is_visible(tmp_path: Path, disk: list[tuple[str, int, int]]) -> None:
    bundle = publish_bundle(tmp_path).path
    pointer = (tmp_path / "current/toys.json").stat()
    visible = disk.index(("rename", pointer.st_ino, pointer.st_size))
    before = {("fsync", pointer.st_ino, pointer.st_size), ("fsync", bundle.parent.stat().st_ino, 0)}
    assert before <= set(disk[:visible])
    assert ("fsync", (tmp_path / "current").stat().st_ino, 0) in disk[visible:]


def test_the_manifest_has_hash_and_size_of_every_other_file(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    others = {name: data for name, data in files_of(bundle.path).items() if name != "manifest.json"}
    listed = {name: (entry.sha256, entry.size) for name, entry in bundle.manifest.files.items()}
    assert listed == {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in others.items()}


def test_the_bundle_is_readable_for_another_user(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    assert bundle.path.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in bundle.path.iterdir()} == {0o644}
    assert (tmp_path / "current/toys.json").stat().st_mode & 0o777 == 0o644


def test_the_pointer_has_the_bundle_id_and_the_model_hash(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    pointer = read_pointer(tmp_path / "current/toys.json")
    assert (pointer.bundle_id, pointer.sha256) == ("toy", bundle.model_sha256)


def test_a_proposal_is_compared_unless_it_says_promote(tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, proposed=False)
    path = tmp_path / "current/toys.json"
    point(tmp_path, bundle.manifest)
    assert read_pointer(path).promote is False
    pointer = {"bundle_id": "toy", "sha256": bundle.model_sha256, "proposed_at": "2026-01-01T00:00:00Z"}
    path.write_text(json.dumps(pointer))
    assert read_pointer(path).promote is False


def test_publishing_does_not_change_the_pointer(tmp_path: Path) -> None:
    publish_bundle(tmp_path, "first")
    x, y = arrays_and_labels(5)
    with staging(tmp_path) as staged:
        (staged / "model.h5").write_bytes(b"model")
        np.savez(staged / "test_set.npz", x=x, y=y)
        (staged / "predictions.csv").write_text("")
        publish(staged, tmp_path, manifest_for("second", x, y))
    assert read_pointer(tmp_path / "current/toys.json").bundle_id == "first"


def test_each_dataset_has_its_own_pointer(tmp_path: Path) -> None:
    publish_bundle(tmp_path, "a", dataset="toys")
    publish_bundle(tmp_path, "b", dataset="games")
    (tmp_path / "current/.tmp-x").write_text("")
    current = {name: read_pointer(path).bundle_id for name, path in pointers(tmp_path).items()}
    assert current == {"toys": "a", "games": "b"}


def test_a_bundle_that_readers_refuse_is_not_published(tmp_path: Path) -> None:
    x, y = arrays_and_labels(5)
    with staging(tmp_path) as staged:
        (staged / "history.json").touch()
        os.truncate(staged / "history.json", 2**26 + 1)
        with pytest.raises(BundleError, match=r"history\.json has 67108865 bytes, at most 67108864 are read"):
            publish(staged, tmp_path, manifest_for("toy", x, y))
    assert list((tmp_path / "bundles").iterdir()) == []
