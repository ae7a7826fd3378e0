"""What people read in a terminal or a log: names of files, labels and classes cannot control it.

A name may hold the escape sequences of a terminal, line ends that look like another log line, or characters that turn
the order of the letters around. Each command line makes its log and its console here, and both escape such characters.
"""

import logging
import sys
from typing import TYPE_CHECKING, Any

from bundle.messages import printable

if TYPE_CHECKING:
    from rich.console import Console


def log_to_stderr(line: str, level: int) -> None:
    """Send the log to stderr. line: the format of one line, as in logging."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])


def make_console(*, width: int | None = None, markup: bool = True, stderr: bool = False) -> "Console":
    """Make a console that escapes each string it prints, also the cells of tables; `Text` objects are not escaped."""
    from rich.console import Console
    from rich.text import Text

    class PrintableConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return PrintableConsole(width=width, markup=markup, emoji=False, stderr=stderr)


class PrintableFormatter(logging.Formatter):
    """Escapes the message of a log record, and each line of a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Escape the message, then format the line."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Escape a traceback, whose lines stay lines."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))
