"""The command line of the predict service: reads the settings once and passes them down."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import __version__
from pypredict import PypredictError
from pypredict.cli_context import ModelsDirectory, explain_error, make_console, open_database
from pypredict.cli_models import models_app
from pypredict.config import Settings, read_settings

if TYPE_CHECKING:
    import sqlalchemy as sa

    from pypredict.listen import Stop
    from pypredict.worker import Worker

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(models_app, name="models")
log = logging.getLogger("pypredict")


def main() -> None:
    """Run the command line; an error is one sentence on stderr and exit code 1, never a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        app()
    except Exception as error:
        sentence = explain_error(error)
        if sentence is None:
            raise
        sys.exit(f"pypredict: {sentence}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pypredict {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Store arrays in Postgres, predict them with the published model, store the predictions there."""


@app.command("migrate", epilog="Example: PGUSER=ml_owner pypredict migrate --passfile .local/postgres/pgpass")
def migrate_command(
    db: Annotated[Path | None, typer.Option(help="Directory with migrations/, views.sql and roles.sql.")] = None,
    passfile: Annotated[
        list[Path] | None, typer.Option(help="pgpass file whose passwords the logins get; may be given again.")
    ] = None,
) -> None:
    """Bring the database to the current schema, as its owner."""
    from pypredict import schema
    from pypredict.migrate import migrate

    settings = read_settings()
    with open_database(settings, any_schema=True, wait=True) as engine:
        before = migrate(engine, db or settings.db, passfile or [])
    log.info("schema ml is at revision %s (before: %s)", schema.REVISION, before)


@app.command("load", epilog="Example: pypredict load photographs/ --dataset animals")
def load_command(
    source: Annotated[
        list[Path], typer.Argument(help="A bundle or its pointer, a folder or file of images, .npy, .npz, .csv, .txt.")
    ],
    *,
    dataset: Annotated[str | None, typer.Option(help="Dataset the inputs belong to (not for a bundle).")] = None,
    text_column: Annotated[str, typer.Option(help="CSV: the column with the texts.")] = "text",
    label_column: Annotated[str | None, typer.Option(help="CSV: the column with the labels, if any.")] = None,
    label_map: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Which class a label stands for, one cats=cat a line.")
    ] = None,
    ignore_labels: Annotated[bool, typer.Option("--ignore-labels", help="Store everything without labels.")] = False,
    models: ModelsDirectory = None,
) -> None:
    """Store inputs in the database as BYTEA; the same content twice is stored once, under its first name.

    All sources that can be loaded are; exit code 1 when one could not be, with its reason.
    """
    from pypredict.labels import Labelling, read_label_map
    from pypredict.load import LoadOptions, load_sources
    from pypredict.source import TextColumns

    if label_map is not None and ignore_labels:
        raise PypredictError("--label-map and --ignore-labels exclude each other; give one of them")
    labelling = Labelling(ignore=ignore_labels) if label_map is None else read_label_map(label_map)
    settings = read_settings()
    how = LoadOptions(dataset, TextColumns(text_column, label_column), labelling, models or settings.models)
    with open_database(settings) as engine:
        load_sources(engine, source, how)


@app.command("run", epilog="Example: pypredict run --until-empty")
def run_command(
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing is left to predict.")] = False,
    models: ModelsDirectory = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Answer Prometheus on this port.")] = None,
    metrics_address: Annotated[str, typer.Option(help="The address that port is bound to.")] = "127.0.0.1",
) -> None:
    """Predict every pending input with the published model, as a daemon or until nothing is left."""
    from pypredict.health import check_writable
    from pypredict.listen import Stop
    from pypredict.status import serve_metrics

    settings = read_settings()
    stop = Stop()
    _check_models(models or settings.models)
    with open_database(settings, wait=True) as engine:
        for number in (signal.SIGTERM, signal.SIGINT):  # before this nothing is in hand, and a signal ends it at once
            signal.signal(number, _stop_once(stop))
        check_writable(settings.health_file)
        worker = _make_worker(engine, settings, models, stop)
        if metrics_port is not None:
            serve_metrics(metrics_port, metrics_address, engine, lambda: worker.predicted)
        predicted = worker.run(until_empty=until_empty)
    log.info("%d inputs predicted%s", predicted, "" if predicted or stop.is_set() else "; nothing was pending")


@app.command("predict", epilog="Example: pypredict predict cat.jpg dog.jpg --dataset animals")
def predict_command(
    item: Annotated[
        list[str],
        typer.Argument(metavar="FILE|TEXT...", help="Image, .npy or .txt files (a .txt is one text), or texts."),
    ],
    dataset: Annotated[str, typer.Option(help="Dataset whose model shall predict.")],
    text: Annotated[bool, typer.Option("--text", help="Take each argument as a text, never as a file.")] = False,
    models: ModelsDirectory = None,
    timeout_seconds: Annotated[float, typer.Option(help="How long a running daemon is waited for.")] = 30,
) -> None:
    """Store single inputs and print class and confidence; the running daemon predicts, or else this process.

    All that can be predicted is printed; exit code 1 when an input could not be, with its reason.
    """
    from pypredict.listen import Stop
    from pypredict.predict_items import UnansweredError, predict_items
    from pypredict.report import answers_table

    settings = read_settings()
    with open_database(settings) as engine:
        worker = _make_worker(engine, settings, models, Stop())
        try:
            answers = predict_items(worker, dataset, item, timeout_seconds, as_text=text)
        except UnansweredError as error:
            if error.answers:
                make_console().print(answers_table(error.answers))
            raise
    make_console().print(answers_table(answers))


@app.command("status", epilog="Example: pypredict status")
def status_command() -> None:
    """Show the queue: what waits, for how long, and how fast it shrinks."""
    from pypredict.status import read_status, status_lines

    with open_database(read_settings()) as engine, engine.begin() as connection:
        now = read_status(connection)
    for line in status_lines(now):
        make_console().print(line, highlight=False)


@app.command("export", epilog="Example: pypredict export predictions.csv --dataset digits")
def export_command(
    path: Annotated[Path, typer.Argument(help="The file to write: .csv or .parquet.")],
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
) -> None:
    """Write predictions with their labels to a file, streamed."""
    from pypredict.export import export

    with open_database(read_settings()) as engine, engine.begin() as connection:
        export(connection, path, dataset)
    log.info("%s: %d bytes", path, path.stat().st_size)


@app.command("health", epilog="Example: pypredict health")
def health_command() -> None:
    """Exit 0 while the daemon's loop turns: looks at the age of PYPREDICT_HEALTH_FILE and at nothing else."""
    from pypredict.health import check_health

    check_health(read_settings().health_file)


@app.command("report", epilog="Example: pypredict report")
def report_command() -> None:
    """Show progress, accuracy and confusion matrix; exit 1 when SQL and manifest disagree."""
    from pypredict.report import check, show

    with open_database(read_settings()) as engine, engine.begin() as connection:
        show(connection, make_console())
        problems = check(connection).problems
    if problems:
        raise PypredictError("; ".join(problems))


@app.command("check", epilog="Example: pypredict check && echo all is well")
def check_command() -> None:
    """Check integrity, accuracy against the manifests and the schema version; exit 1 when something is wrong."""
    from pypredict.report import check

    with open_database(read_settings()) as engine, engine.begin() as connection:
        problems = check(connection).problems
    if problems:
        raise PypredictError("; ".join(problems))
    log.info("integrity is empty, every serving model's accuracy in SQL is its manifest's")


@app.command("ping", epilog="Example: pypredict ping")
def ping_command() -> None:
    """Store a line of text and a small array, read them back, compare."""
    from pypredict.ping import ping

    with open_database(read_settings()) as engine:
        trip = ping(engine)
    make_console().print(f"PostgreSQL {trip.server_version}: round trip in {trip.milliseconds:.1f} ms\n{trip.line}")


def _check_models(directory: Path) -> None:
    """Refuse a models directory that is not there."""
    if not directory.is_dir():
        raise PypredictError(
            f"there is no models directory {directory}; train a model first (pyml train), or name the directory with "
            "--models or PYPREDICT_MODELS"
        )


def _make_worker(engine: "sa.Engine", settings: Settings, models: Path | None, stop: "Stop") -> "Worker":
    from pypredict.models import Models
    from pypredict.worker import Worker

    directory = models or settings.models
    return Worker(
        engine=engine,
        directory=directory,
        models=Models(directory),
        name=f"{socket.gethostname()}-{os.getpid()}",
        lease_seconds=settings.lease_seconds,
        poll_seconds=settings.poll_seconds,
        health_file=settings.health_file,
        stop=stop,
    )


def _stop_once(stop: "Stop") -> Callable[[int, object], None]:
    def handle(number: int, _: object) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)  # the second one ends the process as if killed
            signal.raise_signal(number)
        log.info("stopping after the job in hand")
        stop.set()

    return handle
