"""What people and programs read from a command: log, tables, progress bar, JSON. Names in it control no terminal.

A name may hold the escape sequences of a terminal, line ends that look like another log line, or characters that turn
the order of the letters around. Each command line makes its log and its console here, and both escape such characters.
The log has lines for people, or one JSON object a line for programs that collect logs.
"""

import io
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from bundle.messages import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task


def open_closed_streams() -> None:
    """Discard what is written to stdout or stderr if the shell has closed it (>&-): then Python has none."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere())


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def log_to_stderr(line: str, level: int, *, as_json: bool = False) -> None:
    """Send the log to stderr. line: the format of one line, as in logging; as_json: write JSON objects instead.

    What stdout cannot encode is escaped from now on, as Python does it for stderr; otherwise it would be an error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # it is None without a stdout, and a test may replace it
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if as_json else PrintableFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])


def log_fields(**values: object) -> dict[str, dict[str, object]]:
    """Name the values of a log line for JSON: log.info("...", extra=log_fields(model=1)); people do not see them."""
    return {"fields": values}


def exit_with_error(program: str, sentence: str, code: str | int | None = 1) -> NoReturn:
    """Write the sentence of an error in the form of the log, and exit. An output that cannot be written is given up."""
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at its end, and set another exit code
        sys.stdout = _nowhere()
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        logging.getLogger(program).error("%s", sentence)
    else:
        sys.stderr.write(f"{program}: {printable(sentence)}\n")
    sys.exit(code)


def refuse_empty_arguments(program: str) -> None:
    """Exit if an argument or the value of an option is empty. As a path, it would be the current folder."""
    options = True
    for position, argument in enumerate(sys.argv[1:], start=1):
        options = options and argument != "--"
        if not argument or (options and argument.startswith("--") and argument.endswith("=")):
            sentence = f"argument {position} is empty; give a value: perhaps a variable of the shell is not set"
            exit_with_error(program, sentence, 2)


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
    sys.stdout.flush()  # here an error of the output can still be explained


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


class JsonFormatter(PrintableFormatter):
    """Writes one JSON object a line: time (UTC), level, message, the named fields, and the traceback of an error.

    Texts have the same escapes as in a line for people, because a program may show them on a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        texts = {"time": time, "level": record.levelname, "message": record.getMessage()}
        texts |= getattr(record, "fields", {})
        document = {name: printable(value) if isinstance(value, str) else value for name, value in texts.items()}
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document)
