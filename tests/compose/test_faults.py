"""Each input gets exactly one outcome, also after kills and restarts, and by several workers."""

import os
import signal

from compose.stack import DAEMONS, Stack

# Runs in the container: kills the service's Python process, not the init process above it.
KILL = """
import os, pathlib
for at in pathlib.Path("/proc").glob("[0-9]*"):
    if int(at.name) not in (1, os.getpid()) and b"pypredict\\0run" in (at / "cmdline").read_bytes():
        os.kill(int(at.name), 9)
"""


def predicted(stack: Stack) -> int:
    return stack.number("SELECT coalesce(sum(inputs_done), 0) FROM ml.progress WHERE state = 'serving'")


def assert_exact(stack: Stack) -> None:
    """Check that every job is done, with one outcome for each input: none is missing, double or without a job."""
    assert stack.open_jobs() == 0
    assert stack.sql("SELECT * FROM ml.integrity") == []
    assert stack.number("SELECT count(*) FROM ml.prediction_error") == 0
    planned = "SELECT sum(c.n_inputs) FROM ml.job b JOIN ml.chunk c USING (chunk_id)"
    assert stack.number("SELECT count(*) FROM ml.prediction") == stack.number(planned)


def start_work(stack: Stack, chunks: int) -> int:
    """Add inputs and wait until the service predicts them; return how many are predicted in the end."""
    before = predicted(stack)
    added = stack.copy_inputs(chunks)
    stack.until(lambda: predicted(stack) > before, "the service works on them", 30)
    assert predicted(stack) < before + added, "the work ended too early to be disturbed: add more inputs"
    return before + added


def test_killed_worker_leaves_one_outcome_per_input(stack: Stack, measured: list[str]) -> None:
    container = stack.container("pypredict")
    restarts = stack.inspect(container)["RestartCount"]
    due = start_work(stack, 278)
    stack.run_in("pypredict", "python", "-c", KILL, check=False)  # the end of the container may end this, too
    assert stack.open_jobs() > 0
    stack.wait_done(due)
    assert stack.inspect(container)["RestartCount"] == restarts + 1
    assert_exact(stack)
    measured.append(f"after kill -9 of pypredict at work: {due} predicted exactly once")


def test_restarted_database_leaves_one_outcome_per_input(stack: Stack, measured: list[str]) -> None:
    due = start_work(stack, 278)
    stack.compose("restart", "db")
    stack.wait_done(due)
    assert_exact(stack)
    stack.wait_healthy(*DAEMONS)
    measured.append(f"after a restart of the database under load: {due} predicted exactly once")


def test_killed_database_leaves_one_outcome_per_input(stack: Stack) -> None:
    due = start_work(stack, 278)
    if os.geteuid() == 0:
        os.kill(
            stack.inspect(stack.container("db"))["State"]["Pid"], signal.SIGKILL
        )  # the restart policy brings it back
    else:
        stack.call("docker", "kill", stack.container("db"))
        stack.compose("start", "db")
    stack.wait_done(due)
    assert_exact(stack)


def test_one_two_and_four_workers_are_exact(stack: Stack, measured: list[str]) -> None:
    """The ratios are reported, not judged: the cores of the machine set the limit."""
    seconds: dict[int, float] = {}
    scale = ("up", "--detach", "--no-deps", "--no-recreate", "--scale")
    try:
        for workers in (1, 2, 4):
            stack.compose(*scale, f"pypredict={workers}", "pypredict")
            stack.wait_healthy("pypredict")
            before = predicted(stack)
            added = stack.copy_inputs(278)
            started = stack.seconds()
            stack.wait_done(before + added)
            seconds[workers] = stack.seconds() - started
            assert_exact(stack)
    finally:
        stack.compose(*scale, "pypredict=1", "pypredict")
    ratios = ", ".join(f"{workers} workers {seconds[1] / took:.2f}" for workers, took in seconds.items())
    measured.append(f"{added} inputs beside one worker: {ratios} times as fast")


def test_three_workers_share_the_jobs(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "pypredict=3", "pypredict")
    try:
        stack.wait_healthy("pypredict")
        mark = stack.number("SELECT max(chunk_id) FROM ml.chunk")
        before = predicted(stack)
        added = stack.copy_inputs(400)
        stack.wait_done(before + added)
        workers = stack.number(f"SELECT count(DISTINCT worker) FROM ml.job WHERE chunk_id > {mark}")
        assert workers == 3
        assert_exact(stack)
    finally:
        stack.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "pypredict=1", "pypredict")
