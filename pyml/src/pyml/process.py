"""Stop the trainer's process on a signal, and kill the processes that it started."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

REPEAT_SECONDS = 1.0  # how often a Stopped that was lost is raised again


class Stopped(SystemExit):
    """SIGTERM or Ctrl-C arrived. It is an exception, so that context managers remove the staged files."""

    def __init__(self, number: int) -> None:
        """number: the signal's number. The exit code is 128 + number, as in shells."""
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


def raise_on_signals() -> None:
    """Raise Stopped in the main thread on SIGTERM and SIGINT, again and again until `end_stop` is called.

    Once is not enough: TensorFlow and Python's destructors can lose an exception that is raised while they run. While
    an exception handler or a context manager deals with Stopped, it is not raised again.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    sys.unraisablehook = _report_lost


def end_stop() -> None:
    """Raise Stopped no more: it was handled, or the command ended before."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def kill_process_tree(leader: int) -> None:
    """Kill a process group and the children of its leader. The service of W&B is a child with its own group."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(leader).children():
            with suppress(psutil.NoSuchProcess):
                child.kill()
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)  # the leader may be this process


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, lambda _alarm, _frame: _repeat(number))
    signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS, REPEAT_SECONDS)
    raise Stopped(number)


def _repeat(number: int) -> None:
    handled = sys.exc_info()[1]
    while handled is not None and not isinstance(handled, Stopped):
        handled = handled.__context__
    if handled is None:
        raise Stopped(number)


def _report_lost(lost: "UnraisableHookArgs") -> None:
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)
