"""How the trainer's process is stopped, and how it ends the processes that it started."""

import os
import signal
from contextlib import suppress
from types import FrameType


class Stopped(SystemExit):
    """SIGTERM or Ctrl-C arrived: unwind, so that everything staged is removed on the way out."""

    def __init__(self, number: int) -> None:
        """number: of the signal; the exit code is 128 more, as shells have it."""
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


def raise_on_signals() -> None:
    """Turn SIGTERM and SIGINT into Stopped, raised wherever the main thread is."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def end_family(leader: int) -> None:
    """Kill a process group, and its leader's children outside it: W&B's service has a group of its own."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(leader).children():
            with suppress(psutil.NoSuchProcess):
                child.kill()
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)  # the leader may be this process


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)
