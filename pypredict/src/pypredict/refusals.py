"""What was refused and why, and when it may be tried again: after 30 s, then twice as long each time, up to an hour.

A refusal belongs to a state of the files. When they change, a repair is tried after at most 30 s.
"""

import itertools
import os
import time
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path

from bundle import BundleError
from bundle.messages import printable
from pypredict import PypredictError
from pypredict.database import reason

FIRST_SECONDS, LAST_SECONDS = 30.0, 3600.0
MAX_ENTRIES = 100  # of a directory; a bundle has about ten files


@dataclass(frozen=True)
class Refusal:
    """A refusal of a state of files: the sentence, the time of the check (time.monotonic), and the seconds to wait."""

    state: str
    problem: str
    checked: float
    seconds: float


class Refusals:
    """The refusals of one process, by what was refused."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Refusal] = {}

    def waiting(self, key: Hashable, state: str) -> str | None:
        """Return why a key is refused, if it must not be tried again yet."""
        held = self._held.get(key)
        if held is None:
            return None
        seconds = held.seconds if held.state == state else FIRST_SECONDS
        return held.problem if time.monotonic() < held.checked + seconds else None

    def add(self, key: Hashable, state: str, problem: str) -> bool:
        """Remember a refusal; return whether it is news: another problem, or another state of the files."""
        held = self._held.get(key)
        is_new = held is None or (held.state, held.problem) != (state, problem)
        seconds = FIRST_SECONDS if held is None or is_new else min(2 * held.seconds, LAST_SECONDS)
        self._held[key] = Refusal(state, problem, time.monotonic(), seconds)
        return is_new

    def problem(self, key: Hashable) -> str | None:
        """Return why a key is refused; None when it is not."""
        held = self._held.get(key)
        return None if held is None else held.problem

    def problems(self) -> list[str]:
        """Return all reasons."""
        return [held.problem for held in self._held.values()]

    def drop(self, key: Hashable) -> None:
        """Forget a refusal."""
        self._held.pop(key, None)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget the refusals of all other keys."""
        for key in self._held.keys() - set(keys):
            del self._held[key]


def state_of(path: Path) -> str:
    """Describe a file, or the files of a directory, without opening them. Another description means other files."""
    try:
        if not path.is_dir():
            return _describe(path.lstat())
        with os.scandir(path) as entries:
            some = itertools.islice(entries, MAX_ENTRIES)
            return " ".join(sorted(f"{entry.name}:{_describe(entry.stat(follow_symlinks=False))}" for entry in some))
    except OSError as error:
        return str(error.strerror)


def explain_refusal(path: Path, error: Exception) -> str:
    """Explain in one sentence why a bundle or a pointer cannot be used."""
    if isinstance(error, BundleError | PypredictError):
        return printable(str(error))
    return printable(f"{path} cannot be used ({type(error).__name__}: {reason(error)}); publish it again")


def _describe(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
