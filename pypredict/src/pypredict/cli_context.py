"""Common parts of all commands: options, a console, a database, and one sentence for each error."""

import functools
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import BundleError, terminal
from bundle.messages import explain_system_error
from pypredict import PypredictError
from pypredict.config import Settings

if TYPE_CHECKING:
    import sqlalchemy as sa
    from rich.console import Console

    from pypredict.listen import Stop
    from pypredict.worker import Worker

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
MetricsAddress = Annotated[str, typer.Option(help="Address for Prometheus metrics.")]
ModelsDirectory = Annotated[Path | None, typer.Option("--models", metavar="DIR", help="The models volume.")]


def make_console() -> "Console":
    """Make a console for data with brackets and colons; control characters are escaped. A pipe has 160 columns."""
    return terminal.make_console(width=None if sys.stdout.isatty() else 160, markup=False)


def start_log() -> bool:
    """Log to stderr, as lines for people or, by PYPREDICT_LOG, as JSON; return whether it is JSON."""
    as_json = os.environ.get("PYPREDICT_LOG") == "json"  # the settings check its value later
    terminal.log_to_stderr("%(asctime)s %(levelname)s %(message)s", logging.INFO, as_json=as_json)
    return as_json


def set_verbose(verbose: bool) -> None:
    """Log a line for each chunk, or only counts."""
    logging.getLogger("pypredict").setLevel(logging.DEBUG if verbose else logging.INFO)


@contextmanager
def open_database(settings: Settings, *, any_schema: bool = False, wait: bool = False) -> Iterator["sa.Engine"]:
    """Connect. wait: wait for a database that does not answer yet, since a service may start before it."""
    from pypredict.database import check_schema, connect

    engine = connect(settings.database_url, wait_seconds=settings.wait_seconds if wait else 0)
    try:
        if not any_schema:
            with engine.begin() as connection:
                check_schema(connection)
        yield engine
    finally:
        engine.dispose()


def explain_error(error: Exception) -> str | None:
    """Explain an error in one sentence; None for an error that is a bug of this program."""
    if isinstance(error, PypredictError | BundleError):
        return str(error)
    if isinstance(error, OSError | UnicodeError):
        return explain_system_error(error)

    import psycopg2.errors
    import sqlalchemy as sa
    from pydantic import ValidationError

    from bundle.document import explain
    from pypredict.database import reason

    if isinstance(error, ValidationError):
        return (
            f"this version cannot read a stored {error.title.lower()} ({explain(error)}); use the version of pypredict "
            "that stored it, or a newer one"
        )
    if isinstance(getattr(error, "orig", error), psycopg2.errors.LockNotAvailable):
        return "another transaction locks what this command needs; end it (pg_stat_activity shows it) and run again"
    if isinstance(error, sa.exc.DBAPIError | psycopg2.Error):
        return f"the database refused a statement: {reason(error)}"
    return None


def make_worker(engine: "sa.Engine", settings: Settings, models: Path | None, stop: "Stop") -> "Worker":
    """Make the worker of this process. models: the volume, if not that of the settings."""
    from pypredict.models import Models, load_predict
    from pypredict.worker import Worker

    directory = models or settings.models
    return Worker(
        engine=engine,
        directory=directory,
        models=Models(directory, functools.partial(load_predict, stopped=stop.is_set)),
        name=f"{socket.gethostname()}-{os.getpid()}",
        lease_seconds=settings.lease_seconds,
        poll_seconds=settings.poll_seconds,
        health_file=settings.health_file,
        db_disk=settings.db_disk,
        stop=stop,
    )
