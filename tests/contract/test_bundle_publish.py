"""A published bundle is always complete and the pointer is always valid, also after faults of the trainer.

The numbers in the names are the numbers of the fault cases.
"""

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.bundles import arrays_and_labels, manifest_for, publish_bundle

from bundle import BundleError
from bundle.publish import STAGING_PREFIX, bundle_path, point, pointers, publish, read_pointer, staging
from bundle.verify import open_bundle, open_current

TESTS = Path(__file__).resolve().parents[1]
PREAMBLE = """
    import sys
    from pathlib import Path
    models = Path(sys.argv[1])
    sys.path.append(sys.argv[2])
    from support.bundles import publish_bundle
    from bundle.publish import staging
"""


def start(program: str, models: Path) -> subprocess.Popen[str]:
    """Start a trainer in its own process. It prints a line when it has reached the state that the test needs."""
    source = textwrap.dedent(PREAMBLE) + textwrap.dedent(program)
    return subprocess.Popen(
        [sys.executable, "-c", source, str(models), str(TESTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(program: str) -> subprocess.Popen[str]:
        started.append(start(program, tmp_path))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


STAGED_BUT_NOT_PUBLISHED = """
    with staging(models) as staged:
        for name in ("model.h5", "test_set.npz", "predictions.csv"):
            (staged / name).write_bytes(bytes(100_000))
        print("staged", flush=True)
        sys.stdin.read()
"""


def temporary(models: Path) -> list[Path]:
    return sorted((models / "bundles").glob(STAGING_PREFIX + "*"))


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_26_a_kill_before_the_rename_leaves_a_temporary_directory(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = trainer(STAGED_BUT_NOT_PUBLISHED)
    assert process.stdout
    assert process.stdout.readline() == "staged\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sorted((tmp_path / "bundles").iterdir()) == temporary(tmp_path)
    assert len(temporary(tmp_path)) == 1
    assert pointers(tmp_path) == {}


def test_26_the_next_trainer_removes_files_of_a_killed_trainer(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = trainer(STAGED_BUT_NOT_PUBLISHED)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    publish_bundle(tmp_path, "next")
    assert temporary(tmp_path) == []


def test_26_staged_files_of_a_running_trainer_stay(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = trainer(STAGED_BUT_NOT_PUBLISHED)
    assert process.stdout
    process.stdout.readline()
    (living,) = temporary(tmp_path)
    publish_bundle(tmp_path, "next")
    assert sorted(files_of(living)) == ["model.h5", "predictions.csv", "test_set.npz"]


def test_26_the_directories_of_all_killed_trainers_are_removed(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = trainer(STAGED_BUT_NOT_PUBLISHED)
    assert process.stdout
    process.stdout.readline()
    (living,) = temporary(tmp_path)
    for number in range(20):
        (tmp_path / f"bundles/{STAGING_PREFIX}{number}").mkdir()
    publish_bundle(tmp_path, "next")
    assert temporary(tmp_path) == [living]


def fail_while_staging(models: Path) -> None:
    with staging(models) as staged:
        (staged / "model.h5").write_bytes(b"half")
        raise RuntimeError


def test_an_error_while_staging_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_while_staging(tmp_path)
    assert list((tmp_path / "bundles").iterdir()) == []


def test_27_a_pointer_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = publish_bundle(tmp_path, "first")
    before = sorted((tmp_path / "current").iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BundleError, match=r"No space left on device.*second is published but not proposed"):
        publish_bundle(tmp_path, "second", seed=2)
    assert sorted((tmp_path / "current").iterdir()) == before
    assert read_pointer(before[0]).bundle_id == first.manifest.bundle_id
    assert temporary(tmp_path) == []


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


def test_25_two_trainers_publish_complete_bundles_at_once(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    rounds = 60
    processes = [
        trainer(f"""
            print("ready", flush=True)
            sys.stdin.readline()
            for number in range({rounds}):
                publish_bundle(models, f"{name}{{number}}", seed=number)
        """)
        for name in ("a", "b")
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    published = sorted((tmp_path / "bundles").iterdir())
    assert len(published) == 2 * rounds
    for path in published:
        open_bundle(path)
    open_current(tmp_path, tmp_path / "current/toys.json")
    assert [path.name for path in (tmp_path / "current").iterdir()] == ["toys.json"]


def test_a_reader_never_sees_an_incomplete_bundle(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    publish_bundle(tmp_path, "first")
    process = trainer("""
        print("ready", flush=True)
        for number in range(100):
            publish_bundle(models, f"b{number}", n=500, seed=number)
    """)
    assert process.stdout
    process.stdout.readline()
    seen: list[str] = []
    while process.poll() is None:
        seen.append(open_current(tmp_path, tmp_path / "current/toys.json").manifest.bundle_id)
    assert process.returncode == 0
    assert len(set(seen)) > 5


def test_a_bundle_is_complete_before_the_pointer_names_it(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    publish_bundle(tmp_path, "b0")
    process = trainer("""
        print("ready", flush=True)
        for number in range(1, 50):
            publish_bundle(models, f"b{number}", n=5000, seed=number)
    """)
    assert process.stdout
    process.stdout.readline()
    following = 1
    while process.poll() is None:
        if bundle_path(tmp_path, f"b{following}").exists():
            open_bundle(bundle_path(tmp_path, f"b{following}"))
            following += 1
    assert process.returncode == 0
    assert following > 5


@pytest.fixture
def read_only_volume() -> Iterator[Path]:
    """A volume with a bundle that this process can read but not write, also if the tests run as root."""
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path, because only its owner can enter its parents
        volume = Path(directory)
        volume.chmod(0o755)
        publish_bundle(volume, "first")
        folders = [volume, volume / "bundles", volume / "current"]
        for folder in folders:
            folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield volume
        finally:
            os.seteuid(user)
            for folder in folders:
                folder.chmod(0o755)


def test_27_a_read_only_volume_is_refused_before_the_training(read_only_volume: Path) -> None:
    with (
        pytest.raises(
            BundleError, match=r"bundles cannot be written \(Permission denied\); a trainer needs a writable"
        ),
        staging(read_only_volume),
    ):
        pytest.fail("staging began on a volume that cannot be written")


def test_27_an_unwritable_pointer_is_refused_in_one_sentence(read_only_volume: Path) -> None:
    manifest = open_bundle(bundle_path(read_only_volume, "first")).manifest
    with pytest.raises(BundleError, match=r"current cannot be written \(Permission denied\)"):
        point(read_only_volume, manifest)


def test_27_a_full_volume_is_refused_and_the_pointer_stays(tmp_path: Path) -> None:
    publish_bundle(tmp_path, "first")
    pointer = (tmp_path / "current/toys.json").read_bytes()
    process = start(
        """
        import resource
        from bundle import BundleError
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # a write beyond it fails
        try:
            publish_bundle(models, "second", n=5000)
        except BundleError as error:
            sys.exit(str(error))
        """,
        tmp_path,
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip().endswith("File too large; nothing was published")
    assert said.count("\n") == 1
    assert (tmp_path / "current/toys.json").read_bytes() == pointer
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["first"]


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
        (staged / "predictions.csv").touch()
        os.truncate(staged / "predictions.csv", 2**26 + 1)
        with pytest.raises(BundleError, match=r"predictions\.csv has 67108865 bytes, at most 67108864 are read"):
            publish(staged, tmp_path, manifest_for("toy", x, y))
    assert list((tmp_path / "bundles").iterdir()) == []
