"""Common parts of error messages."""

import difflib
import itertools
import re
from collections.abc import Collection, Iterable

MAX_CHARACTERS = 300
# Control characters, line and paragraph separators, marks of the writing direction, and bytes that are not UTF-8.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SHOWN = 10  # names in a message
SHOWN_CHARACTERS = 60  # of each name


def one_line(error: BaseException) -> str:
    """Shorten another library's error, often a page long, to at most 300 characters on one line that can be stored."""
    return shorten(printable(" ".join(str(error).split())) or type(error).__name__, MAX_CHARACTERS)


def printable(text: str) -> str:
    r"""Escape each character that a terminal or a log would obey: ESC becomes \x1b, a line end \n."""
    return UNSAFE.sub(lambda found: _escaped(found[0]), text)


def list_names(names: Collection[str]) -> str:
    """List the first ten names, each shortened to 60 characters, and count the others."""
    shown = ", ".join(map(shorten, itertools.islice(names, SHOWN)))
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def shorten(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Shorten a name to at most 60 characters, another text to `most`."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def did_you_mean(given: object, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest the known word nearest to a misspelt one. If none is near, return `otherwise` or list all words."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(given).lower(), names, n=1)
    return f"did you mean {names[near[0]]}?" if near else otherwise or f"known are {', '.join(names.values())}"


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def explain_system_error(error: OSError | UnicodeError) -> str:
    """Explain an error of a file, the output or the encoding in one sentence."""
    if isinstance(error, OSError):
        path = "a file or the output" if error.filename is None else error.filename
        return f"{path} cannot be used ({error.strerror or error}); check its path, its rights and the free disk space"
    text = shorten(error.object) if isinstance(error, UnicodeEncodeError) else "a text"
    return f"{text} cannot be read or written ({error}); use UTF-8, also for the terminal"
