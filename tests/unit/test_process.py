"""A signal stops the trainer, even if a library loses the exception."""

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from pyml import process
from pyml.process import Stopped, end_stop, raise_on_signals


@pytest.fixture(autouse=True)
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Handle signals as the command does, and restore pytest's handlers. Gives a byte for each signal that arrives."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    monkeypatch.setattr(process, "REPEAT_SECONDS", 0.05)
    monkeypatch.setattr("sys.unraisablehook", None)  # monkeypatch restores it
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    raise_on_signals()
    yield reader
    end_stop()
    signal.set_wakeup_fd(-1)
    reader.close()
    writer.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for_signal(arrivals: socket.socket) -> None:
    assert select.select([arrivals], [], [], 30)[0], "no signal arrived within 30 s"
    arrivals.recv(1)


@contextmanager
def stopping() -> Iterator[list[Stopped]]:
    """End the stop as the command does. The list gets the exception."""
    caught: list[Stopped] = []
    try:
        yield caught
    except Stopped as stopped:
        end_stop()
        caught.append(stopped)
    assert caught, "nothing was stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_79_a_stop_that_a_library_loses_is_raised_again(arrivals: socket.socket, number: signal.Signals) -> None:
    with stopping() as caught:
        with suppress(Stopped):
            signal.raise_signal(number)
        wait_for_signal(arrivals)  # of that signal
        wait_for_signal(arrivals)
    assert caught[0].code == 128 + number
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_79_a_stop_in_a_destructor_is_raised_again(arrivals: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    class Handle:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with stopping():
        Handle()
        wait_for_signal(arrivals)
        wait_for_signal(arrivals)
    assert capsys.readouterr().err == ""


def test_another_error_in_a_destructor_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    class Handle:
        def __del__(self) -> None:
            raise ValueError("no handle")

    Handle()
    assert "ValueError: no handle" in capsys.readouterr().err


def test_79_a_stop_does_not_interrupt_the_removal_of_files(arrivals: socket.socket) -> None:
    removed = False
    with stopping():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            try:
                raise OSError("a second error")
            except OSError:
                for _ in range(3):  # the first is the signal itself
                    wait_for_signal(arrivals)
            wait_for_signal(arrivals)
            removed = True
    assert removed
