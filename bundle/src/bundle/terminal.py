"""What people and programs read from a command: log, tables, progress bar, JSON. Names in it control no terminal.

A name may hold the escape sequences of a terminal, line ends that look like another log line, or characters that turn
the order of the letters around. Each command line makes its log and its console here, and both escape such characters.
"""

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from bundle.messages import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task


def log_to_stderr(line: str, level: int) -> None:
    """Send the log to stderr. line: the format of one line, as in logging."""
    handler = StderrHandler()
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


def progress_bar(*after: "str | ProgressColumn") -> "Progress":
    """Make a progress bar with rate and remaining time, on stderr if that is a terminal; otherwise it shows nothing.

    after: more columns, as in rich. The log's lines appear above the bar. It is removed at the end.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: "Task") -> Text:
            return Text(format_rate(task.speed))

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        *after,
        console=make_console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def format_rate(per_second: float | None) -> str:
    """Give a rate for people: 1,234/s, or how long one takes if it is slower than one per second."""
    if not per_second:
        return ""
    return f"{per_second:,.0f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def print_json(document: object) -> None:
    """Print one JSON document on stdout: times as ISO 8601, null for what is absent or no finite number."""
    from pydantic_core import to_jsonable_python

    sys.stdout.write(json.dumps(to_jsonable_python(document, inf_nan_mode="null"), indent=2) + "\n")


class StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at that time: a progress bar replaces it, so that lines appear above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class PrintableFormatter(logging.Formatter):
    """Escapes the message of a log record, and each line of a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Escape the message, then format the line."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Escape a traceback, whose lines stay lines."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))
