"""Stop the trainer's process on a signal, and kill the processes that it started."""

import os
import signal
from contextlib import suppress
from types import FrameType


class Stopped(SystemExit):
    """SIGTERM or Ctrl-C arrived. It is an exception, so that context managers remove the staged files."""

    def __init__(self, number: int) -> None:
        """number: the signal's number. The exit code is 128 + number, as in shells."""
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


def raise_on_signals() -> None:
    """Raise Stopped in the main thread on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


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
    raise Stopped(number)
