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
from bundle.document import explain
from pypredict import PypredictError
from pypredict.config import Settings

if TYPE_CHECKING:
    from pypredict.listen import Stop
    from pypredict.registry import Model
    from pypredict.worker import Worker

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
models_app = typer.Typer(no_args_is_help=True, help="Which model serves: list, promote, retire, roll back.")
app.add_typer(models_app, name="models")
log = logging.getLogger("pypredict")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model's number or its bundle's id.")]
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
        sys.exit(
            f"pypredict: a stored {error.title.lower()} is not one that this version reads ({explain(error)}); "
            "use the version of pypredict that stored it, or a newer one"
        )
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

    settings = _settings()
    with _database(settings, any_schema=True, wait=True) as engine:
        before = migration.migrate(engine, db or settings.db, passfile or [])
    log.info("schema ml is at revision %s (before: %s)", schema.REVISION, before)


@app.command(epilog="Example: pypredict load photographs/ --dataset animals")
def load(
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
    models: ModelsOption = None,
) -> None:
    """Store inputs in the database as BYTEA; the same content twice is stored once, under its first name.

    All sources that can be loaded are; exit code 1 when one could not be, with its reason.
    """
    from pypredict.labels import Labelling, read_label_map
    from pypredict.load import bundle_at, load_chunks, preparation
    from pypredict.source import TextColumns, cut_test_set, read_source

    if label_map is not None and ignore_labels:
        raise PypredictError("--label-map and --ignore-labels exclude each other; give one of them")
    labelling = Labelling(ignore=ignore_labels) if label_map is None else read_label_map(label_map)
    settings = _settings()
    columns = TextColumns(text_column, label_column)
    problems: list[str] = []

    def load_one(path: Path) -> None:
        bundle = bundle_at(path)
        if bundle is not None and labelling != Labelling():
            raise PypredictError(
                f"{path} is a bundle, whose test set has its labels; leave out --label-map and --ignore-labels"
            )
        if bundle is not None:
            load_chunks(engine, bundle.manifest.bundle_id, cut_test_set(bundle), bundle.manifest.metrics.n)
            return
        if dataset is None:
            raise PypredictError(f"{path} is no bundle, so its dataset must be named: --dataset NAME")
        how = preparation(engine, models or settings.models, dataset)
        load_chunks(engine, str(path), read_source(path, how, columns, labelling), None)

    with _database(settings) as engine:
        for path in source:
            try:
                load_one(path)
            except (PypredictError, BundleError) as error:
                problems.append(str(error))
    labelling.warn_of_unused()
    if problems:
        raise PypredictError("; ".join(dict.fromkeys(problems)))


@app.command(epilog="Example: pypredict run --until-empty")
def run(
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing is left to predict.")] = False,
    models: ModelsOption = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Answer Prometheus on this port.")] = None,
    metrics_address: Annotated[str, typer.Option(help="The address that port is bound to.")] = "127.0.0.1",
) -> None:
    """Predict every pending input with the published model, as a daemon or until nothing is left."""
    from pypredict.health import check_writable
    from pypredict.listen import Stop
    from pypredict.status import serve_metrics

    settings = _settings()
    stop = Stop()
    _check_models(models or settings.models)
    with _database(settings, wait=True) as engine:
        for number in (signal.SIGTERM, signal.SIGINT):  # before this nothing is in hand, and a signal ends it at once
            signal.signal(number, _stop_once(stop))
        check_writable(settings.health_file)
        worker = _worker(engine, settings, models, stop)
        if metrics_port is not None:
            serve_metrics(metrics_port, metrics_address, engine, lambda: worker.predicted)
        predicted = worker.run(until_empty=until_empty)
    log.info("%d inputs predicted%s", predicted, "" if predicted or stop.is_set() else "; nothing was pending")


@app.command(epilog="Example: pypredict predict cat.jpg dog.jpg --dataset animals")
def predict(
    item: Annotated[
        list[str],
        typer.Argument(metavar="FILE|TEXT...", help="Image, .npy or .txt files (a .txt is one text), or texts."),
    ],
    dataset: Annotated[str, typer.Option(help="Dataset whose model shall predict.")],
    text: Annotated[bool, typer.Option("--text", help="Take each argument as a text, never as a file.")] = False,
    models: ModelsOption = None,
    timeout_seconds: Annotated[float, typer.Option(help="How long a running daemon is waited for.")] = 30,
) -> None:
    """Store single inputs and print class and confidence; the running daemon predicts, or else this process.

    All that can be predicted is printed; exit code 1 when an input could not be, with its reason.
    """
    from pypredict.listen import Stop
    from pypredict.predict_items import UnansweredError, predict_items
    from pypredict.report import answers_table

    settings = _settings()
    with _database(settings) as engine:
        worker = _worker(engine, settings, models, Stop())
        try:
            answers = predict_items(worker, dataset, item, timeout_seconds, as_text=text)
        except UnansweredError as error:
            if error.answers:
                _console().print(answers_table(error.answers))
            raise
    _console().print(answers_table(answers))


@app.command(epilog="Example: pypredict status")
def status() -> None:
    """Show the queue: what waits, for how long, and how fast it shrinks."""
    from pypredict.status import read_status, status_lines

    with _database(_settings()) as engine, engine.begin() as connection:
        now = read_status(connection)
    for line in status_lines(now):
        _console().print(line, highlight=False)


@app.command(epilog="Example: pypredict export predictions.csv --dataset digits")
def export(
    path: Annotated[Path, typer.Argument(help="The file to write: .csv or .parquet.")],
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
) -> None:
    """Write predictions with their labels to a file, streamed."""
    from pypredict.export import export as write

    with _database(_settings()) as engine, engine.begin() as connection:
        write(connection, path, dataset)
    log.info("%s: %d bytes", path, path.stat().st_size)


@app.command(epilog="Example: pypredict health")
def health() -> None:
    """Exit 0 while the daemon's loop turns: looks at the age of PYPREDICT_HEALTH_FILE and at nothing else."""
    from pypredict.health import check_health

    check_health(_settings().health_file)


@models_app.command("list", epilog="Example: pypredict models list")
def list_models(models: ModelsOption = None) -> None:
    """List every published model, and which one serves."""
    from pypredict.registry import list_models as read
    from pypredict.report import models_table

    settings = _settings()
    with _database(settings) as engine:
        _register_new(engine, models or settings.models)
        with engine.begin() as connection:
            _console().print(models_table(read(connection)))


@models_app.command("promote", epilog="Example: pypredict models promote 3 --rescore")
def promote(
    model: ModelArgument,
    rescore: Annotated[bool, typer.Option("--rescore", help="Also predict the older inputs of the dataset.")] = False,
    models: ModelsOption = None,
) -> None:
    """Let a model serve its dataset; the one before it is retired."""
    from pypredict import promotion, registry, store

    settings = _settings()
    directory = models or settings.models
    with _database(settings) as engine:
        _register_new(engine, directory)
        with engine.begin() as connection:
            found = registry.find_model(connection, model)
        _serve(engine, directory, found, promotion.promote)
        with engine.begin() as connection:
            planned = store.rescore(connection, found.dataset) if rescore else 0
    more = f"; {planned} older jobs planned" if rescore else ""
    log.info("model %d (%s) serves %s%s", found.model_id, found.bundle_id, found.dataset, more)


@models_app.command("retire", epilog="Example: pypredict models retire 3")
def retire(model: ModelArgument) -> None:
    """Let a model serve no longer; its predictions stay."""
    from pypredict import promotion, registry

    with _database(_settings()) as engine, engine.begin() as connection:
        found = registry.find_model(connection, model)
        promotion.retire(connection, found)
    log.info("model %d (%s) is retired; no model serves %s", found.model_id, found.bundle_id, found.dataset)


@models_app.command("rollback", epilog="Example: pypredict models rollback digits")
def rollback(dataset: str, models: ModelsOption = None) -> None:
    """Let the model that served a dataset before serve it again; each time one step further back."""
    from pypredict import promotion, registry

    settings = _settings()
    with _database(settings) as engine:
        with engine.begin() as connection:
            before = promotion.served_before(connection, dataset)
            found = registry.find_model(connection, str(before))
        _serve(engine, models or settings.models, found, promotion.roll_back)
    log.info("model %d (%s) serves %s again", found.model_id, found.bundle_id, dataset)


@models_app.command("history", epilog="Example: pypredict models history digits")
def history(dataset: Annotated[str | None, typer.Argument(help="Only this dataset.")] = None) -> None:
    """Show which model came to serve, when, and why; also the proposals that were declined."""
    from pypredict.registry import check_dataset
    from pypredict.report import history_table

    with _database(_settings()) as engine, engine.begin() as connection:
        if dataset is not None:
            check_dataset(connection, dataset)
        _console().print(history_table(connection, dataset))


@app.command(epilog="Example: pypredict report")
def report() -> None:
    """Show progress, accuracy and confusion matrix; exit 1 when SQL and manifest disagree."""
    from pypredict.report import check as verdict
    from pypredict.report import show

    with _database(_settings()) as engine, engine.begin() as connection:
        show(connection, _console())
        problems = verdict(connection).problems
    if problems:
        raise PypredictError("; ".join(problems))


@app.command(epilog="Example: pypredict check && echo all is well")
def check() -> None:
    """Check integrity, accuracy against the manifests and the schema version; exit 1 when something is wrong."""
    from pypredict.report import check as verdict

    with _database(_settings()) as engine, engine.begin() as connection:
        problems = verdict(connection).problems
    if problems:
        raise PypredictError("; ".join(problems))
    log.info("integrity is empty, every serving model's accuracy in SQL is its manifest's")


@app.command(epilog="Example: pypredict ping")
def ping() -> None:
    """Store a line of text and a small array, read them back, compare."""
    from pypredict.ping import ping as round_trip

    with _database(_settings()) as engine:
        trip = round_trip(engine)
    _console().print(f"PostgreSQL {trip.server_version}: round trip in {trip.milliseconds:.1f} ms\n{trip.line}")


def _settings() -> Settings:
    """Read the settings; one without meaning is named by its variable."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise PypredictError(
            f"setting {name}: {first['msg']}, got {first['input']!r}; change PYPREDICT_{name.upper()}"
        ) from error


def _check_models(directory: Path) -> None:
    """Refuse a models directory that is not there."""
    if not directory.is_dir():
        raise PypredictError(
            f"there is no models directory {directory}; train a model first (pyml train), or name the directory with "
            "--models or PYPREDICT_MODELS"
        )


def _register_new(engine: sa.Engine, directory: Path) -> None:
    """Register what is published here, so that it can be named; nothing where there is no models directory."""
    from pypredict.models import Models
    from pypredict.publications import Publications

    Publications(engine, directory, Models(directory)).register_new()


def _serve(engine: sa.Engine, directory: Path, model: "Model", serve: Callable[[sa.Connection, "Model"], None]) -> None:
    """Verify and try a registered model, then let it serve. Raises BundleError."""
    from bundle.publish import bundle_path
    from bundle.verify import open_bundle
    from pypredict.models import Models
    from pypredict.publications import put_into_service

    bundle = open_bundle(bundle_path(directory, model.bundle_id))
    put_into_service(engine, Models(directory), bundle, model, serve)


def _worker(engine: sa.Engine, settings: Settings, models: Path | None, stop: "Stop") -> "Worker":
    from pypredict.models import Models
    from pypredict.worker import Worker

    directory = models or settings.models
    patience = (settings.lease_seconds, settings.poll_seconds)
    name = f"{socket.gethostname()}-{os.getpid()}"
    return Worker(engine, directory, Models(directory), name, *patience, settings.health_file, stop)


def _console() -> Console:
    """Print data as it is: brackets and colons in it are no markup; a pipe has no width, so figures do not fold."""
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)


@contextmanager
def _database(settings: Settings, *, any_schema: bool = False, wait: bool = False) -> Iterator[sa.Engine]:
    """Connect; wait: for a database that is not there yet, since a service may start before it."""
    from pypredict.database import check_schema, connect

    engine = connect(settings.database_url, wait_seconds=settings.wait_seconds if wait else 0)
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
        log.info("stopping after the job in hand")
        stop.set()

    return handle
