"""Killed, restarted, multiplied: every input still gets exactly one outcome."""

import os
import signal

from compose.stack import DAEMONS, Stack

# In the container: kill the service's Python, not the init process above it.
KILL = """
import os, pathlib
for at in pathlib.Path("/proc").glob("[0-9]*"):
    if int(at.name) not in (1, os.getpid()) and b"pypredict\\0run" in (at / "cmdline").read_bytes():
        os.kill(int(at.name), 9)
"""


def predicted(stack: Stack) -> int:
    return stack.number("SELECT coalesce(sum(inputs_done), 0) FROM ml.progress WHERE state = 'serving'")


def assert_exact(stack: Stack) -> None:
    """Every job is done and left one outcome per input; SQL would show a missing, a double, a stray one."""
    assert stack.open_jobs() == 0
    assert stack.sql("SELECT * FROM ml.integrity") == []
    assert stack.number("SELECT count(*) FROM ml.prediction_error") == 0
    planned = "SELECT sum(c.n_inputs) FROM ml.job b JOIN ml.chunk c USING (chunk_id)"
    assert stack.number("SELECT count(*) FROM ml.prediction") == stack.number(planned)


def start_work(stack: Stack, chunks: int) -> int:
    """Add inputs and wait until the service is in the midst of them; return how many will then be predicted in all."""
    before = predicted(stack)
    added = stack.copy_inputs(chunks)
    stack.until(lambda: predicted(stack) > before, "the service works on them", 30)
    assert predicted(stack) < before + added, "the work was over too soon to be disturbed: add more of it"
    return before + added


def test_kill_9_of_the_predict_service_at_work_loses_and_doubles_nothing(stack: Stack, figures: list[str]) -> None:
    container = stack.container("pypredict")
    restarts = stack.inspect(container)["RestartCount"]
    due = start_work(stack, 278)
    stack.run_in("pypredict", "python", "-c", KILL)
    assert stack.open_jobs() > 0
    stack.wait_done(due)
    assert stack.inspect(container)["RestartCount"] == restarts + 1
    assert_exact(stack)
    figures.append(f"after kill -9 of pypredict at work: {due} predicted exactly once")


def test_the_database_restarted_under_load_loses_and_doubles_nothing(stack: Stack, figures: list[str]) -> None:
    due = start_work(stack, 278)
    stack.compose("restart", "db")
    stack.wait_done(due)
    assert_exact(stack)
    stack.wait_healthy(*DAEMONS)
    figures.append(f"after a restart of the database under load: {due} predicted exactly once")


def test_the_database_killed_under_load_loses_and_doubles_nothing(stack: Stack) -> None:
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


def test_three_predict_services_share_the_work(stack: Stack) -> None:
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
