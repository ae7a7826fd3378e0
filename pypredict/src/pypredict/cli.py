"""The command line of the predict service. It reads the settings once and passes them on.

Longer than 300 lines, because each command is one short function here.
"""

import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import __version__
from bundle.terminal import exit_with_error, open_closed_streams, print_json, refuse_empty_arguments
from pypredict import PypredictError
from pypredict.cli_context import (
    Json,
    MetricsAddress,
    ModelsDirectory,
    explain_error,
    make_console,
    make_worker,
    open_database,
    set_verbose,
    start_log,
)
from pypredict.cli_models import models_app
from pypredict.cli_prune import prune_app
from pypredict.config import read_settings

if TYPE_CHECKING:
    from pypredict.predict_items import Answer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(models_app, name="models")
app.add_typer(prune_app, name="prune")
log = logging.getLogger("pypredict")


class RunEngine(StrEnum):
    """What places the workers of `pypredict run`."""

    RAY = "ray"


def main() -> None:
    """Run the command line; print an error as one sentence on stderr, without a traceback, and exit with code 1."""
    open_closed_streams()
    as_json = start_log()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    refuse_empty_arguments("pypredict")
    try:
        app()
    except Exception as error:
        sentence = explain_error(error)
        if sentence is None and as_json:
            log.critical("an error of this program: %s", error, exc_info=error)
            sys.exit(1)
        if sentence is None:
            raise
        exit_with_error("pypredict", sentence)


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
    """Store arrays in Postgres, predict them with the published model, and store the predictions there."""


@app.command("migrate", epilog="Example: PGUSER=ml_owner pypredict migrate --passfile .local/postgres/pgpass")
def migrate_command(
    db: Annotated[Path | None, typer.Option(help="Directory with migrations/ and the SQL files.")] = None,
    passfile: Annotated[
        list[Path] | None, typer.Option(help="pgpass file with the passwords of the logins; can be repeated.")
    ] = None,
) -> None:
    """Migrate the database to the current schema, as its owner."""
    from pypredict import schema
    from pypredict.migrate import migrate

    settings = read_settings()
    with open_database(settings, any_schema=True, wait=True) as engine:
        before = migrate(engine, db or settings.db, passfile or [])
    log.info("schema ml is at revision %s (before: %s)", schema.REVISION, before)


@app.command("load", epilog="Example: pypredict load photographs/ --dataset animals")
def load_command(
    source: Annotated[
        list[Path], typer.Argument(help="Bundle, pointer to a bundle, folder of images, image, .npy, .npz, .csv, .txt.")
    ],
    *,
    dataset: Annotated[str | None, typer.Option(help="The dataset of the inputs (not for a bundle).")] = None,
    text_column: Annotated[str, typer.Option(help="CSV: the column with the texts.")] = "text",
    label_column: Annotated[str | None, typer.Option(help="CSV: the column with the labels, if any.")] = None,
    label_map: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the class of each label: one cats=cat per line.")
    ] = None,
    ignore_labels: Annotated[bool, typer.Option("--ignore-labels", help="Store all inputs without labels.")] = False,
    models: ModelsDirectory = None,
) -> None:
    """Store inputs in the database as BYTEA; a chunk of equal content and labels is stored once, under its first name.

    When a source cannot be loaded, the others are still loaded; then the command prints the reason and exits with 1.
    """
    from pypredict.labels import Labelling, read_label_map
    from pypredict.load import LoadOptions, load_sources
    from pypredict.source import TextColumns

    if label_map is not None and ignore_labels:
        raise PypredictError("--label-map and --ignore-labels exclude each other; give one of them")
    labelling = Labelling(ignore=ignore_labels) if label_map is None else read_label_map(label_map)
    settings = read_settings()
    options = LoadOptions(dataset, TextColumns(text_column, label_column), labelling, models or settings.models)
    with open_database(settings) as engine:
        load_sources(engine, source, options)


@app.command("run", epilog="Example: pypredict run --until-empty")
def run_command(
    *,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when no input is pending.")] = False,
    models: ModelsDirectory = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port for Prometheus metrics.")] = None,
    metrics_address: MetricsAddress = "127.0.0.1",
    verbose: Annotated[bool, typer.Option("--verbose", help="Log one line for each chunk, not one a minute.")] = False,
    engine: Annotated[RunEngine | None, typer.Option(help="ray: run the workers on a Ray cluster.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --engine: how many workers to keep alive.")] = 1,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The Ray cluster.", show_default="one on this machine")
    ] = None,
) -> None:
    """Predict every pending input with the published model, as a daemon or until no input is pending."""
    from pypredict.health import check_writable
    from pypredict.listen import Stop
    from pypredict.metrics import Collector, serve_metrics
    from pypredict.run_bar import run_bar
    from pypredict.run_log import log_start

    settings = read_settings()
    stop = Stop()
    set_verbose(verbose)
    _check_models(models or settings.models)
    if engine is None and (workers != 1 or address is not None):
        raise PypredictError("--workers and --address need --engine ray; without it, start pypredict run several times")
    if engine is not None:
        from pypredict.ray_engine import run_on_ray

        if metrics_port is not None:
            raise PypredictError("--metrics-port and --engine exclude each other; pypredict metrics serves the numbers")
        settings = settings.model_copy(update={"models": models or settings.models})
        run_on_ray(settings, workers, address, stop, until_empty=until_empty, verbose=verbose)
        return
    with open_database(settings, wait=True) as database:
        for number in (signal.SIGTERM, signal.SIGINT):  # until here no job is claimed, so a signal may end the process
            signal.signal(number, stop.on_signal)
        check_writable(settings.health_file)
        worker = make_worker(database, settings, models, stop)
        log_start(database, worker.name)
        if metrics_port is not None:
            collector = Collector(database, worker.directory, settings.db_disk, lambda: worker.predicted)
            serve_metrics(metrics_port, metrics_address, collector)
        with run_bar(database, shown=until_empty) as advance:
            worker.on_written = advance
            worker.run(until_empty=until_empty)
    worker.run_log.write_total(nothing="" if stop.is_set() else "; nothing was pending")


@app.command("predict", epilog="Example: pypredict predict cat.jpg dog.jpg --dataset animals")
def predict_command(
    item: Annotated[
        list[str],
        typer.Argument(metavar="FILE|TEXT...", help="Image, .npy or .txt files (a .txt is one text), or texts."),
    ],
    *,
    dataset: Annotated[str, typer.Option(help="Use the model of this dataset.")],
    text: Annotated[bool, typer.Option("--text", help="Treat each argument as a text, never as a file.")] = False,
    models: ModelsDirectory = None,
    timeout_seconds: Annotated[float, typer.Option(help="Time to wait for a running daemon, in seconds.")] = 30,
    as_json: Json = False,
) -> None:
    """Store single inputs, predict them, and print class and confidence.

    A running daemon predicts them; without a daemon, this process does. When an input cannot be predicted, the others
    are still printed; then the command prints the reason and exits with 1.
    """
    from pypredict.listen import Stop
    from pypredict.predict_items import UnansweredError, predict_items
    from pypredict.report import answers_table

    def show(answers: "Sequence[Answer]") -> None:
        if as_json:
            print_json(answers)
        elif answers:
            make_console().print(answers_table(answers))

    settings = read_settings()
    with open_database(settings) as engine:
        worker = make_worker(engine, settings, models, Stop())
        try:
            answers = predict_items(worker, dataset, item, timeout_seconds, as_text=text)
        except UnansweredError as error:
            show(error.answers)
            raise
    show(answers)


@app.command("status", epilog="Example: pypredict status")
def status_command(models: ModelsDirectory = None, as_json: Json = False) -> None:
    """Show the queue, the workers, connections, disk space and WAL, with a warning for what is nearly used up."""
    from pypredict.resources import find_warnings, read_resources
    from pypredict.status import read_status, status_lines

    settings = read_settings()
    with open_database(settings) as engine, engine.begin() as connection:
        now = read_status(connection)
        resources = read_resources(connection, models or settings.models, settings.db_disk)
    warnings = find_warnings(resources)
    if as_json:
        print_json(asdict(now) | asdict(resources) | {"warnings": warnings})
        return
    said = [f"warning: {sentence}" for sentence in warnings.values()]
    make_console().print(*status_lines(now), *status_lines(resources), *said, sep="\n", highlight=False)


@app.command("metrics", epilog="Example: pypredict metrics --port 9100")
def metrics_command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for Prometheus metrics.")] = 9100,
    address: MetricsAddress = "127.0.0.1",
    models: ModelsDirectory = None,
) -> None:
    """Show the numbers of `pypredict status` to Prometheus until a signal ends it, also when no worker runs."""
    from pypredict.metrics import Collector, serve_metrics

    settings = read_settings()
    with open_database(settings, wait=True) as engine:
        ends = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before a thread starts, which would take them
        used = serve_metrics(port, address, Collector(engine, models or settings.models, settings.db_disk))
        log.info("metrics are on http://%s:%d/metrics", address, used)
        signal.sigwait(ends)


@app.command("export", epilog="Example: pypredict export predictions.csv --dataset digits")
def export_command(
    path: Annotated[Path, typer.Argument(help="The file to write: .csv or .parquet.")],
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="CSV: keep texts that spreadsheet programs take for formulas.")
    ] = False,
) -> None:
    """Write predictions and labels to a file, row by row.

    In a CSV file, an apostrophe is set before a text that begins with =, +, -, @, a tab or a line end.
    """
    from pypredict.export import export

    with open_database(read_settings()) as engine, engine.begin() as connection:
        export(connection, path, dataset, raw=raw)
    log.info("%s: %d bytes", path, path.stat().st_size)


@app.command("health", epilog="Example: pypredict health")
def health_command() -> None:
    """Exit with 0 when the daemon runs and can work: reads only PYPREDICT_HEALTH_FILE and its age."""
    from pypredict.health import check_health

    check_health(read_settings().health_file)


@app.command("report", epilog="Example: pypredict report --html report.html")
def report_command(
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one HTML file, with charts.")] = None,
    replay: Annotated[str | None, typer.Option(metavar="N|all", help="With --html: as in pypredict check.")] = None,
    models: ModelsDirectory = None,
    as_json: Json = False,
) -> None:
    """Show progress, accuracy and confusion matrix; exit with 1 when SQL and manifest disagree."""
    from pypredict.report import check, read_tables, show

    if html is not None and as_json:
        raise PypredictError("--html and --json exclude each other; give one of them")
    if html is None and replay is not None:
        raise PypredictError("--replay of the report needs --html FILE; or run pypredict check --replay")
    settings = read_settings()
    with open_database(settings) as engine:
        if html is not None:
            from pypredict.report_html import make_report

            problems = make_report(engine, models or settings.models, html, replay)
        else:
            with engine.begin() as connection:
                problems = check(connection)
                if as_json:
                    print_json(read_tables(connection) | {"problems": problems})
                else:
                    show(connection, make_console())
    if problems:
        raise PypredictError("; ".join(problems))


@app.command("show", epilog="Example: pypredict show 17 18")
def show_command(
    input_id: Annotated[
        list[int],
        typer.Argument(metavar="INPUT_ID...", min=1, max=2**63 - 1, help="Numbers of inputs, as the views show them."),
    ],
) -> None:
    """Show inputs with label and prediction: an image as characters, a text by its words, other arrays as numbers."""
    from pypredict.report import print_inputs

    with open_database(read_settings()) as engine, engine.begin() as connection:
        print_inputs(connection, make_console(), input_id)


@app.command("check", epilog="Example: pypredict check --replay all")
def check_command(
    replay: Annotated[
        str | None,
        typer.Option(metavar="N|all", help="Also repeat N stored predictions or more, chosen at random, or all."),
    ] = None,
    models: ModelsDirectory = None,
) -> None:
    """Check integrity, accuracy against the manifests, and the schema version; exit with 1 when something is wrong.

    --replay reads stored inputs, predicts them again with the model that the prediction names, and compares every bit.
    """
    from pypredict.replay import open_snapshot, parse_amount, replay_predictions
    from pypredict.report import check

    settings = read_settings()
    amount = None if replay is None else parse_amount(replay)
    with open_database(settings) as engine, open_snapshot(engine) as connection:
        problems = check(connection)
        if replay is not None:
            replayed = replay_predictions(connection, models or settings.models, amount)
            problems += replayed.problems
            log.info("%s", replayed)
    if problems:
        raise PypredictError("; ".join(problems))
    log.info("no problem: ml.integrity is empty, and the accuracy of each serving model equals its manifest's")


@app.command("ping", epilog="Example: pypredict ping")
def ping_command() -> None:
    """Store a line of text and a small array, read them back, and compare them."""
    from pypredict.ping import ping

    with open_database(read_settings()) as engine:
        done = ping(engine)
    first = f"PostgreSQL {done.server_version}: round trip in {done.milliseconds:.1f} ms"
    make_console().print(first, done.line, sep="\n")


def _check_models(directory: Path) -> None:
    """Refuse a models directory that does not exist."""
    if not directory.is_dir():
        raise PypredictError(
            f"there is no models directory {directory}; train a model first (pyml train), or set the directory with "
            "--models or PYPREDICT_MODELS"
        )
