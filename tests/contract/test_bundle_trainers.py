"""Trainers that are killed or that publish at the same time, and volumes that cannot be written or are full.

A published bundle is complete and the pointer is valid in each case. The numbers in the names are those of the cases.
"""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundles import files_of, publish_bundle

from bundle import BundleError
from bundle.publish import (
    LOCK_SUFFIX,
    STAGING_PREFIX,
    bundle_path,
    point,
    pointers,
    read_pointer,
    remove_bundles,
    staging,
)
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


def start_staging(trainer: Callable[[str], subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Start a trainer, and return when its files are staged."""
    process = trainer(STAGED_BUT_NOT_PUBLISHED)
    assert process.stdout
    assert process.stdout.readline() == "staged\n"
    return process


def temporary(models: Path) -> list[Path]:
    """List the directories that are staged, or left by a killed trainer; their lock files belong to them."""
    found = sorted((models / "bundles").glob(STAGING_PREFIX + "*"))
    locks = [path for path in found if path.name.endswith(LOCK_SUFFIX)]
    assert all(path.with_suffix("").is_dir() for path in locks)
    return [path for path in found if path not in locks]


def test_26_a_kill_before_the_rename_leaves_a_temporary_directory(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = start_staging(trainer)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(temporary(tmp_path)) == 1
    assert pointers(tmp_path) == {}


def test_26_the_next_trainer_removes_files_of_a_killed_trainer(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = start_staging(trainer)
    process.send_signal(signal.SIGKILL)
    process.wait()
    publish_bundle(tmp_path, "next")
    assert temporary(tmp_path) == []


def test_26_staged_files_of_a_running_trainer_stay(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    start_staging(trainer)
    (living,) = temporary(tmp_path)
    publish_bundle(tmp_path, "next")
    assert sorted(files_of(living)) == ["model.h5", "predictions.csv", "test_set.npz"]


def test_26_the_directories_of_all_killed_trainers_are_removed(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]]
) -> None:
    start_staging(trainer)
    (living,) = temporary(tmp_path)
    for number in range(20):
        (tmp_path / f"bundles/{STAGING_PREFIX}{number}").mkdir()
    publish_bundle(tmp_path, "next")
    assert temporary(tmp_path) == [living]


def test_26_locks_are_files_open_for_writing_as_nfs_needs(
    tmp_path: Path, trainer: Callable[[str], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux's NFS client keeps a lock on a directory on its own machine, and refuses one on a file open for reading."""
    process = start_staging(trainer)
    process.send_signal(signal.SIGKILL)
    process.wait()
    locked: list[int] = []
    flock = fcntl.flock

    def record(handle: int, operation: int) -> None:
        assert stat.S_ISREG(os.fstat(handle).st_mode)
        assert fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        flock(handle, operation)
        locked.append(operation)

    monkeypatch.setattr(fcntl, "flock", record)
    publish_bundle(tmp_path, "next")
    assert locked == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]  # of the killed trainer, and of the new one
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["next"]


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
def test_26_the_lock_file_of_another_user_stops_no_trainer() -> None:
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path, because only its owner can enter its parents
        volume = Path(directory)
        publish_bundle(volume, "first")
        for folder in (volume, volume / "bundles", volume / "current"):
            folder.chmod(0o777)
        with staging(volume) as of_root:
            os.seteuid(65534)
            try:
                publish_bundle(volume, "second")
                remove_bundles(volume, ["second"])
            finally:
                os.seteuid(0)
            assert of_root.is_dir()
        assert [path.name for path in (volume / "bundles").iterdir()] == ["first"]


def test_27_a_read_only_volume_is_refused_before_the_training(read_only_volume: Path) -> None:
    with (
        pytest.raises(
            BundleError, match=r"bundles cannot be written \(Permission denied\); a trainer needs a writable"
        ),
        staging(read_only_volume),
    ):
        pytest.fail("staging began on a volume that cannot be written")


def test_27_bundles_on_a_read_only_volume_are_not_deleted(read_only_volume: Path) -> None:
    with pytest.raises(BundleError, match=r"bundles cannot be written \(Permission denied\); bundles are deleted"):
        remove_bundles(read_only_volume, ["first"])
    assert bundle_path(read_only_volume, "first").is_dir()


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
