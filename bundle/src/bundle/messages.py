"""Common parts of error messages."""

import difflib
from collections.abc import Iterable

MAX_CHARACTERS = 300


def one_line(error: BaseException) -> str:
    """Shorten another library's error, often a page long, to at most 300 characters on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."


def printable(text: str) -> str:
    """Replace each character that is no letter, digit, sign or space, for example a line break or an escape code."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def did_you_mean(given: object, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest the known word nearest to a misspelt one. If none is near, return `otherwise` or list all words."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(given).lower(), names, n=1)
    return f"did you mean {names[near[0]]}?" if near else otherwise or f"known are {', '.join(names.values())}"
