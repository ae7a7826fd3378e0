"""When a refused bundle is tried again, and what counts as another state of its files."""

import os
from pathlib import Path

import pytest

from pypredict.refusals import Refusals, state_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds; a test may change it."""
    now = [0.0]
    monkeypatch.setattr("pypredict.refusals.time.monotonic", lambda: now[0])
    return now


def test_59_the_wait_doubles_up_to_an_hour(clock: list[float]) -> None:
    refusals, waits = Refusals(), []
    for _ in range(10):
        refusals.add("toy", "state", "it is broken")
        began = clock[0]
        while refusals.waiting("toy", "state") == "it is broken":
            clock[0] += 30
        waits.append(clock[0] - began)
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_59_changed_files_are_tried_30_seconds_after_the_last_check(clock: list[float]) -> None:
    refusals = Refusals()
    for _ in range(5):
        refusals.add("toy", "state", "it is broken")
    clock[0] = 29
    assert refusals.waiting("toy", "repaired") == "it is broken"
    clock[0] = 30
    assert refusals.waiting("toy", "repaired") is None
    assert refusals.waiting("toy", "state") == "it is broken"


def test_a_refusal_is_news_for_another_problem_or_state(clock: list[float]) -> None:
    refusals = Refusals()
    news = [refusals.add("toy", *refused) for refused in [("1", "a"), ("1", "a"), ("1", "b"), ("2", "b"), ("2", "b")]]
    assert news == [True, False, True, True, False]


def test_a_dropped_refusal_is_forgotten(clock: list[float]) -> None:
    refusals = Refusals()
    for name in ("toy", "old", "new"):
        refusals.add(name, "state", f"{name} is broken")
    refusals.drop("toy")
    refusals.keep(["new"])
    assert refusals.problems() == ["new is broken"]
    assert refusals.problem("toy") is None


def test_the_state_changes_with_each_file_of_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"one")
    states = [state_of(tmp_path)]
    (tmp_path / "model.h5").write_bytes(b"more")
    states.append(state_of(tmp_path))
    os.utime(tmp_path / "model.h5", ns=(0, 0))
    states.append(state_of(tmp_path))
    (tmp_path / "other").touch()
    states.append(state_of(tmp_path))
    assert len(set(states)) == 4
    assert state_of(tmp_path) == states[-1]


def test_the_state_of_a_fifo_and_of_a_missing_file_is_known(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert state_of(tmp_path / "fifo")
    assert state_of(tmp_path / "missing") == "No such file or directory"
