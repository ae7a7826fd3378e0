"""A record never costs a training: whatever the SDK does, it leaves one line in the log."""

import logging
from pathlib import Path
from typing import Any

import pytest

from bundle.manifest import Metrics, TrackedRun
from pyml import tracking
from pyml.config import Settings
from pyml.tracking import Tracker, start_tracker

METRICS = Metrics(n=1, n_correct=1, accuracy=1, loss=0, macro_precision=1, macro_recall=1, macro_f1=1)
OFFLINE = TrackedRun(mode="offline")


class BrokenRun:
    """A run whose service has died."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(f"{name}: the service process is gone")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")


def modes_tried(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> list[str]:
    tried: list[str] = []

    def refuse(*arguments: Any) -> Tracker:
        tried.append(arguments[-1])
        raise ConnectionError("no")

    monkeypatch.setattr(tracking, "_open_record", refuse)
    start_tracker("x", {}, None, settings)
    return tried


def test_without_a_token_the_record_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert modes_tried(monkeypatch, Settings(wandb_mode="online", wandb_api_key=None)) == ["offline"]


def test_with_a_token_the_record_is_online_and_falls_back_to_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert modes_tried(monkeypatch, Settings(wandb_mode="online", wandb_api_key="x")) == ["online", "offline"]


def test_offline_is_respected_although_there_is_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert modes_tried(monkeypatch, Settings(wandb_mode="offline", wandb_api_key="x")) == ["offline"]


def test_disabled_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert modes_tried(monkeypatch, Settings(wandb_mode="disabled", wandb_api_key="x")) == []


def test_a_record_that_cannot_be_opened_leaves_a_disabled_tracker(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tracker = start_tracker("x", {}, None, Settings(record=tmp_path / "file", wandb_mode="offline"))
    assert tracker.record == TrackedRun(mode="disabled")


def test_a_disabled_tracker_does_nothing(tmp_path: Path) -> None:
    tracker = Tracker(None, TrackedRun(mode="disabled"))
    tracker.log_metrics(METRICS, 1)
    tracker.log_bundle(tmp_path, "x")
    tracker.finish(0)
    assert tracker.callbacks() == []


def test_a_service_that_dies_costs_one_line_and_no_exception(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tracker = Tracker(BrokenRun(), OFFLINE)
    with caplog.at_level(logging.WARNING, "pyml"):
        tracker.log_metrics(METRICS, 1)
        tracker.log_bundle(tmp_path, "x")
    assert [record.getMessage() for record in caplog.records] == [
        "W&B: recording metrics failed (summary: the service process is gone); training goes on without it"
    ]


def test_a_record_that_cannot_be_closed_raises_nothing() -> None:
    Tracker(BrokenRun(), OFFLINE).finish(0)
