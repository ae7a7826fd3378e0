"""The command line of the predict service: reads the settings once and passes them down."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psycopg2
import sqlalchemy as sa
import typer
from pydantic import ValidationError
from rich.console import Console

from bundle import BundleError
from pypredict import PypredictError
from pypredict.config import Settings

if TYPE_CHECKING:
    from pypredict.listen import Stop

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
log = logging.getLogger("pypredict")

ModelsOption = Annotated[Path | None, typer.Option(help="The models volume.")]


def main() -> None:
    """Run the command line; an error is one sentence on stderr and exit code 1, never a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        app()
    except (PypredictError, BundleError) as error:
        sys.exit(f"pypredict: {error}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        sys.exit(f"pypredict: setting {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}")
    except (sa.exc.DBAPIError, psycopg2.Error) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        sys.exit(f"pypredict: the database refused a statement: {' '.join(str(cause).split())}")


@app.command(epilog="Example: PGUSER=ml_owner pypredict migrate --passfile .local/postgres/pgpass")
def migrate(
    db: Annotated[Path | None, typer.Option(help="Directory with migrations/, views.sql and roles.sql.")] = None,
    passfile: Annotated[
        list[Path] | None, typer.Option(help="pgpass file whose passwords the logins get; may be given again.")
    ] = None,
) -> None:
    """Bring the database to the current schema, as its owner."""
    from pypredict import migrate as migration
    from pypredict import schema

    settings = Settings()
    with _database(settings, any_schema=True) as engine:
        before = migration.migrate(engine, db or settings.db, passfile or [])
    log.info("schema ml is at revision %s (before: %s)", schema.REVISION, before)


@app.command(epilog="Example: pypredict load models/bundles/digits_cnn-0123456789ab")
def load(
    source: Annotated[list[Path], typer.Argument(help="A bundle, or a pointer models/current/DATASET.json.")],
) -> None:
    """Store inputs in the database as BYTEA; the same content twice is stored once."""
    from bundle.verify import open_bundle, open_current
    from pypredict.source import read_holdout
    from pypredict.store import load_chunk

    with _database(Settings()) as engine:
        for path in source:
            bundle = open_current(path.parent.parent, path) if path.suffix == ".json" else open_bundle(path)
            loaded = known = 0
            for chunk in read_holdout(bundle):
                with engine.begin() as connection:
                    _, new = load_chunk(connection, chunk)
                loaded, known = loaded + new * len(chunk.arrays), known + (not new) * len(chunk.arrays)
            log.info("%s: %d inputs loaded, %d were there already", bundle.manifest.bundle_id, loaded, known)


@app.command(epilog="Example: pypredict run --until-empty")
def run(
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing is left to predict.")] = False,
    models: ModelsOption = None,
) -> None:
    """Predict every pending input with the published model, as a daemon or until nothing is left."""
    from pypredict.listen import Stop
    from pypredict.predictor import Models
    from pypredict.worker import Worker

    settings = Settings()
    directory = models or settings.models
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_once(stop))
    with _database(settings) as engine:
        name = f"{socket.gethostname()}-{os.getpid()}"
        patience = (settings.lease_seconds, settings.poll_seconds)
        worker = Worker(engine, directory, Models(directory), name, *patience, settings.health_file, stop)
        predicted = worker.run(until_empty=until_empty)
    log.info("%d inputs predicted%s", predicted, "" if predicted or stop.is_set() else "; nothing was pending")


@app.command(epilog="Example: pypredict report")
def report() -> None:
    """Show progress, accuracy and confusion matrix; exit 1 when SQL and manifest disagree."""
    from pypredict.report import check as verdict
    from pypredict.report import show

    with _database(Settings()) as engine, engine.begin() as connection:
        show(connection, Console())
        problems = verdict(connection).problems
    if problems:
        raise PypredictError("; ".join(problems))


@app.command(epilog="Example: pypredict check && echo all is well")
def check() -> None:
    """Check integrity, accuracy against the manifests and the schema version; exit 1 when something is wrong."""
    from pypredict.report import check as verdict

    with _database(Settings()) as engine, engine.begin() as connection:
        problems = verdict(connection).problems
    if problems:
        raise PypredictError("; ".join(problems))
    log.info("integrity is empty, every serving model's accuracy in SQL is its manifest's")


@app.command(epilog="Example: pypredict ping")
def ping() -> None:
    """Store a line of text and a small array, read them back, compare."""
    from pypredict.ping import ping as round_trip

    with _database(Settings()) as engine:
        trip = round_trip(engine)
    Console().print(f"PostgreSQL {trip.server_version}: round trip in {trip.milliseconds:.1f} ms\n{trip.line}")


@contextmanager
def _database(settings: Settings, *, any_schema: bool = False) -> Iterator[sa.Engine]:
    from pypredict.database import check_schema, connect

    engine = connect(settings.database_url, wait_seconds=settings.wait_seconds)
    try:
        if not any_schema:
            with engine.begin() as connection:
                check_schema(connection)
        yield engine
    finally:
        engine.dispose()


def _stop_once(stop: "Stop") -> Callable[[int, object], None]:
    def handle(number: int, _: object) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)  # the second one ends the process as if killed
            signal.raise_signal(number)
        log.info("stopping after the batch in hand")
        stop.set()

    return handle
