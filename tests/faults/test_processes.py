"""Workers that die, freeze or get a signal: real processes, real signals.

The numbers in the test names are those of the list of faults. After every case, `integrity` is empty and each (model,
input) has exactly one outcome.
"""

import signal
import subprocess

import numpy as np
import pytest
from faults.conftest import N
from support.bundles import CLASSES
from support.fault_setup import FaultSetup, reach
from support.fault_worker import KILLER, RAISER, SLEEPER
from support.workers import until


def killed_at(setup: FaultSetup, point: str, *options: str) -> None:
    """Kill a worker at a point of a job, then let another worker do all open jobs."""
    victim = setup.start("--point", point, *options)
    reach(victim, point)
    victim.kill()
    victim.wait()
    setup.finish()
    setup.assert_exact(N)


POINTS = {"01": "claimed", "02": "read", "03": "predicting", "04": "fenced"}


@pytest.mark.parametrize("point", POINTS.values(), ids=[f"case_{number}_{point}" for number, point in POINTS.items()])
def test_01_to_04_a_job_of_a_killed_worker_is_done_again(setup: FaultSetup, point: str) -> None:
    killed_at(setup, point)
    assert setup.rows("SELECT attempt, failures FROM ml.job") == [(2, 1)]


def test_05_a_committed_job_is_not_done_again(setup: FaultSetup) -> None:
    killed_at(setup, "committed")
    assert setup.rows("SELECT attempt, failures FROM ml.job") == [(1, 0)]


def frozen_past_its_lease(setup: FaultSetup, *options: str) -> subprocess.Popen[str]:
    """Stop a worker with SIGSTOP in the middle of a job, let another worker do the job, then continue the first."""
    sleeper = setup.start("--point", "predicting", "--lease", "0.5", *options)
    reach(sleeper, "predicting")
    sleeper.send_signal(signal.SIGSTOP)
    setup.finish(*options)
    sleeper.send_signal(signal.SIGCONT)
    return sleeper


def case_06(setup: FaultSetup, *options: str) -> None:
    sleeper = frozen_past_its_lease(setup, *options)
    _, errors = sleeper.communicate("\n", timeout=60)
    assert sleeper.returncode == 0, errors
    assert "attempt 1 does not hold the job any more" in errors
    setup.assert_exact(N)


def test_06_a_worker_frozen_past_its_lease_is_fenced(setup: FaultSetup) -> None:
    case_06(setup)


def test_07_a_worker_finishes_its_job_after_sigterm(setup: FaultSetup) -> None:
    worker = setup.start("--point", "predicting", "--daemon")
    reach(worker, "predicting")
    worker.send_signal(signal.SIGTERM)
    worker.communicate("\n", timeout=30)
    assert worker.returncode == 0
    setup.assert_exact(N)
    assert setup.rows("SELECT attempt, failures FROM ml.job") == [(1, 0)]


def test_08_a_second_sigterm_kills_the_worker_at_once(setup: FaultSetup) -> None:
    worker = setup.start("--seconds", "600", "--daemon")
    until(lambda: setup.rows("SELECT state FROM ml.job") == [("running",)])
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)
    while worker.poll() is None:
        worker.send_signal(signal.SIGTERM)  # again, because the process may get two fast signals as one
    assert worker.returncode == -signal.SIGKILL
    setup.finish()
    setup.assert_exact(N)


def test_09_an_input_that_crashes_the_interpreter_becomes_a_crash(setup: FaultSetup) -> None:
    arrays = np.arange(6, dtype=np.uint8).repeat(16).reshape(6, 4, 4, 1).copy()
    arrays[3, 0, 0, 0] = KILLER
    setup.load(arrays)
    deaths = 0
    while setup.rows("SELECT count(*) FROM ml.job WHERE state <> 'done'") != [(0,)] or deaths == 0:
        worker = setup.start("--lease", "0.3")
        worker.communicate(timeout=60)
        deaths += worker.returncode == -signal.SIGSEGV
        assert deaths <= 5
    setup.assert_exact(N + 6)
    assert setup.rows("SELECT reason FROM ml.prediction_error") == [("crash",)]
    assert deaths == 5  # three deaths with the whole job, two with the input alone
    crashed = "SELECT i.sample_no FROM ml.prediction_error JOIN ml.input i USING (input_id)"
    assert setup.rows(crashed) == [(3,)]


def test_09_an_input_whose_call_does_not_end_becomes_a_crash(setup: FaultSetup) -> None:
    arrays = np.arange(6, dtype=np.uint8).repeat(16).reshape(6, 4, 4, 1).copy()
    arrays[3, 0, 0, 0] = SLEEPER
    setup.load(arrays)
    deaths = 0
    while setup.rows("SELECT count(*) FROM ml.job WHERE state <> 'done'") != [(0,)] or deaths == 0:
        worker = setup.start("--lease", "0.3", "--call-limit", "1")
        _, errors = worker.communicate(timeout=60)
        if worker.returncode:
            assert errors.startswith("Timeout (0:00:01)!") or "\nTimeout (0:00:01)!" in errors
            deaths += 1
        assert deaths <= 5
    setup.assert_exact(N + 6)
    assert setup.rows("SELECT reason FROM ml.prediction_error") == [("crash",)]
    assert deaths == 5


def test_an_input_that_raises_is_isolated_by_one_process(setup: FaultSetup) -> None:
    arrays = np.arange(6, dtype=np.uint8).repeat(16).reshape(6, 4, 4, 1).copy()
    arrays[3, 0, 0, 0] = RAISER
    setup.load(arrays)
    setup.finish()
    setup.assert_exact(N + 6)
    assert setup.rows("SELECT reason, detail FROM ml.prediction_error") == [
        ("model_error", "RuntimeError: this input raises")
    ]


@pytest.mark.parametrize("offset", [86_400, -86_400])
def test_11_a_worker_with_a_wrong_clock_takes_no_claimed_job(setup: FaultSetup, offset: int) -> None:
    first = setup.start("--point", "predicting", "--lease", "30")
    reach(first, "predicting")
    before = setup.rows("SELECT attempt, worker FROM ml.job")
    other = setup.start("--clock-offset", str(offset), "--daemon", "--lease", "30")
    until(setup.listens)
    setup.load(np.full((1, 4, 4, 1), 7, np.uint8))
    until(lambda: setup.rows("SELECT count(*) FROM ml.prediction") == [(1,)])  # it claims only the free job
    assert setup.rows("SELECT attempt, worker FROM ml.job WHERE state = 'running'") == before
    other.send_signal(signal.SIGTERM)
    other.communicate(timeout=30)
    first.communicate("\n", timeout=30)
    setup.finish()
    setup.assert_exact(N + 1)
    assert setup.rows("SELECT max(attempt) FROM ml.job") == [(1,)]
    assert setup.rows("SELECT predicted FROM ml.outcome WHERE NOT in_test_set") == [(CLASSES[7 % 3],)]


@pytest.mark.parametrize("offset", [86_400, -86_400])
def test_11_a_wrong_clock_does_not_change_the_end_of_a_lease(setup: FaultSetup, offset: int) -> None:
    killed = setup.start("--point", "predicting", "--lease", "3")
    reach(killed, "predicting")
    other = setup.start("--clock-offset", str(offset), "--daemon", "--lease", "30")
    until(setup.listens)
    killed.kill()
    killed.communicate()
    ((attempt, state, lease_end),) = setup.rows("SELECT attempt, state, lease_until FROM ml.job")
    assert (attempt, state) == (1, "running")
    until(lambda: setup.rows("SELECT 1 FROM ml.job WHERE state = 'done'") != [])
    other.send_signal(signal.SIGTERM)
    other.communicate(timeout=30)
    ((attempt, done_at),) = setup.rows("SELECT attempt, done_at FROM ml.job")
    assert attempt == 2
    assert done_at > lease_end  # both by the server's clock
    setup.assert_exact(N)


def test_12_case_06_finds_the_mutant_without_a_fence(setup: FaultSetup) -> None:
    with pytest.raises(AssertionError):
        case_06(setup, "--mutant", "no-fence")


def test_12_case_04_finds_the_mutant_with_two_commits(setup: FaultSetup) -> None:
    with pytest.raises(AssertionError):
        killed_at(setup, "fenced", "--mutant", "apart")
