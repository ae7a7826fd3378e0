"""No fault of the SDK or of the upload stops a training; it logs one line."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bundles import publish_bundle

from bundle.manifest import Metrics, TrackedRun
from pyml.config import Settings
from pyml.process import kill_process_tree
from pyml.tracking import tracker as tracker_module
from pyml.tracking.local_run import list_records, lock_record, locked
from pyml.tracking.tracker import Tracker, start_tracker
from pyml.tracking.upload import Upload

METRICS = Metrics(n=1, n_correct=1, accuracy=1, loss=0, macro_precision=1, macro_recall=1, macro_f1=1)
OFFLINE, ONLINE = TrackedRun(mode="offline", id="r1"), TrackedRun(mode="online", id="r1")
PLACE = Path("records/offline-run-1-r1")


class BrokenRun:
    """A run whose service has died: each call raises an error."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(f"{name}: the service process is gone")


class QuietRun:
    """A run that accepts every call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class FakeUpload(Upload):
    """An upload with a given result. early: the problem during the training; outcome: the problem at the end."""

    def __init__(self, outcome: str | None, early: str | None = None) -> None:
        self.outcome, self.early, self.ended, self.url = outcome, early, 0, "https://wandb.example/r1"

    def wait_for_url(self, seconds: float) -> str | None:
        return self.url

    def failed_early(self) -> str | None:
        return self.early

    def close(self) -> None:
        pass

    def wait(self, at_most_seconds: float) -> str | None:
        return self.outcome

    def end(self) -> None:
        self.ended += 1


@pytest.fixture(autouse=True)
def _no_teardown(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setattr(wandb, "teardown", lambda *_: None)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("pyml")]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pyml")
    return caplog


def test_disabled_mode_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "_open_record", lambda *_: pytest.fail("a record was opened"))
    tracker = start_tracker("x", {}, None, Settings(wandb_mode="disabled", wandb_api_key="x"))
    assert tracker.record == TrackedRun(mode="disabled")


def test_a_record_that_cannot_be_opened_logs_one_line(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    tracker = start_tracker("x", {}, None, Settings(record=tmp_path / "file", wandb_mode="offline"))
    assert tracker.record == TrackedRun(mode="disabled")
    assert lines(log) == [
        f"W&B: no record (FileExistsError: [Errno 17] File exists: '{tmp_path}/file'); the training continues"
    ]


def test_a_disabled_tracker_does_nothing(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(None, TrackedRun(mode="disabled"))
    tracker.log_metrics(METRICS, 1)
    tracker.log_bundle(tmp_path, publish_bundle(tmp_path).manifest)
    tracker.finish(0)
    assert tracker.callbacks() == []
    assert lines(log) == []


def test_a_service_that_dies_logs_one_line_and_raises_nothing(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    bundle = publish_bundle(tmp_path)
    tracker = Tracker(BrokenRun(), OFFLINE, directory=PLACE)
    tracker.log_metrics(METRICS, 1)
    tracker.log_bundle(bundle.path, bundle.manifest)
    tracker.finish(0)
    [line] = lines(log)
    assert line == (
        "W&B: recording metrics failed (summary: the service process is gone); the training continues without it, "
        f"the record until now is in {PLACE}"
    )


def test_the_path_of_an_offline_run_is_logged_with_pyml_sync(log: pytest.LogCaptureFixture) -> None:
    Tracker(QuietRun(), OFFLINE, directory=PLACE).finish(0)
    assert lines(log) == [f"W&B: offline, the run is in {PLACE}; upload it with: pyml sync"]


def test_the_url_of_an_arrived_run_is_logged(log: pytest.LogCaptureFixture) -> None:
    upload = FakeUpload(None)
    tracker = Tracker(QuietRun(), ONLINE, upload, PLACE)
    assert tracker.record.url == upload.url
    tracker.finish(0)
    assert lines(log) == [f"W&B: {upload.url}"]
    assert upload.ended == 1


def test_the_reason_and_path_of_a_failed_upload_are_logged(log: pytest.LogCaptureFixture) -> None:
    upload = FakeUpload("the server cannot be reached")
    Tracker(QuietRun(), ONLINE, upload, PLACE).finish(1)
    assert lines(log) == [
        f"W&B: not uploaded, the server cannot be reached; the run is in {PLACE}, upload it with: pyml sync"
    ]
    assert upload.ended == 1


def test_an_upload_that_fails_early_is_reported_once(log: pytest.LogCaptureFixture) -> None:
    upload = FakeUpload("not used", early="the server does not know the token")
    tracker = Tracker(QuietRun(), ONLINE, upload, PLACE)
    for _epoch in range(3):
        tracker._check_upload()  # the last step of the callback; tests/faults/test_tracking.py tests the callback
    said = [f"W&B: not uploaded, the server does not know the token; the run is in {PLACE}, upload it with: pyml sync"]
    assert lines(log) == said
    tracker.finish(0)
    assert lines(log) == said
    assert upload.ended == 1


def test_an_interrupt_ends_the_upload() -> None:
    upload = FakeUpload(None)
    upload.wait = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[assignment]
    tracker = Tracker(QuietRun(), ONLINE, upload, PLACE)
    with pytest.raises(KeyboardInterrupt):
        tracker.finish(0)
    assert upload.ended == 1


def test_a_record_is_locked_by_one_at_a_time(tmp_path: Path) -> None:
    handle = lock_record(tmp_path)
    assert handle is not None
    with locked(tmp_path) as second:
        assert second is None
    os.close(handle)
    with locked(tmp_path) as third:
        assert third is not None


def test_records_are_listed_oldest_first_and_once(tmp_path: Path) -> None:
    names = ["offline-run-20260102_000000-b", "run-20260101_000000-a", "offline-run-20260103_000000-c"]
    for name in names:
        directory = tmp_path / "wandb" / name
        directory.mkdir(parents=True)
        (directory / f"run-{name[-1]}.wandb").write_bytes(b"")
    (tmp_path / "wandb/latest-run").symlink_to(names[0])
    (tmp_path / "wandb/offline-run-20260104_000000-d").mkdir()  # an empty directory
    assert [path.name for path in list_records(tmp_path)] == [names[1], names[0], names[2]]


def test_an_arrival_that_cannot_be_noted_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    start = subprocess.Popen
    program = 'print(\'{"arrived": "https://wandb.example/r1"}\')'

    def arrive(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        return start([command[0], "-c", program], **options)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyml.tracking.upload.subprocess.Popen", arrive)
    upload = Upload(tmp_path, Settings(record=tmp_path), None, live=False)
    monkeypatch.setattr("bundle.whole_file.tempfile.mkstemp", full)
    assert upload.wait(60) is None
    upload.end()
    assert lines(log) == [
        f"W&B: the run arrived, but {tmp_path}/arrived.json cannot be written (No space left on device); the next "
        "pyml sync uploads it again"
    ]


def test_the_start_of_the_upload_process_is_not_the_silence_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen
    slow = 'import time; time.sleep(1); print(\'{"arrived": "https://wandb.example/r1"}\')'

    def start_slowly(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        return start([command[0], "-c", slow], **options)

    monkeypatch.setattr("pyml.tracking.upload.subprocess.Popen", start_slowly)
    monkeypatch.setattr("pyml.tracking.upload.SILENT_SECONDS", 0.1)
    upload = Upload(tmp_path, Settings(record=tmp_path), None, live=False)
    assert upload.wait(60) is None
    upload.end()
    assert upload.url == "https://wandb.example/r1"


def test_kill_process_tree_kills_children_in_other_sessions() -> None:
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'print(0, flush=True); input()'], "
    program = child + "stdin=0, start_new_session=True).wait()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"0\n"  # the grandchild runs
    kill_process_tree(process.pid)
    assert process.stdout.read() == b""  # no process holds the pipe
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
    process.stdout.close()
