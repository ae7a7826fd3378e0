"""The command line of the trainer. It reads the settings once and passes them to the functions.

Exit codes: 0 success; 1 error (one sentence on stderr); 2 wrong usage; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.
"""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import BundleError, __version__
from bundle.messages import explain_system_error, one_line, printable
from bundle.terminal import exit_with_error, log_to_stderr, open_closed_streams, print_json, refuse_empty_arguments
from pyml import PymlError
from pyml.cli_context import DataDir, Models, Quiet, make_console, make_settings, set_quiet
from pyml.cli_train import all_command, test_bundle, train_command
from pyml.process import Stopped, end_stop, raise_on_signals

if TYPE_CHECKING:
    from pyml.config import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger("pyml")

BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help="The id of a bundle, or its directory.")]


def main() -> None:
    """Run the command line. An error prints one sentence on stderr and no traceback, and sets the exit code."""
    open_closed_streams()
    log_to_stderr("%(message)s", logging.WARNING, as_json=os.environ.get("PYML_LOG") == "json")
    log.setLevel(logging.INFO)
    raise_on_signals()
    refuse_empty_arguments("pyml")
    try:
        app()
    except (PymlError, BundleError) as error:
        exit_with_error("pyml", str(error))
    except (OSError, UnicodeError) as error:  # not that of a closed pipe, for which click exits
        exit_with_error("pyml", explain_system_error(error))
    except MemoryError as error:
        exit_with_error("pyml", f"not enough memory ({one_line(error)}); free some, or lower batch_size")
    except Stopped as stopped:
        exit_with_error("pyml", f"stopped by {stopped.signal}; no incomplete bundle is left", stopped.code)
    finally:
        end_stop()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyml {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Train a Keras model from an experiment file, track it, publish it as a bundle."""


app.command("train", epilog="Example: pyml train experiments/digits_cnn.json")(train_command)
app.command("all", epilog="Example: pyml all experiments/digits_cnn.json")(all_command)


@app.command("test", epilog="Example: pyml test digits_cnn-0123456789ab")
def recheck_command(bundle: BundleName, models: Models = None, quiet: Quiet = False) -> None:
    """Verify a bundle, predict its test set again, compare its metrics with the manifest (exit code 1: they differ)."""
    set_quiet(quiet)
    test_bundle(_find_bundle(bundle, make_settings(models)), quiet)


@app.command("download", epilog="Example: pyml download mnist")
def download_command(
    datasets: Annotated[list[str], typer.Argument(metavar="NAME...", help="mnist, fashion_mnist, imdb.")],
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Download known datasets into the data directory and check the sha256 of each file."""
    from pyml.datasets.download import DataDirectory, check_names

    set_quiet(quiet)
    settings = make_settings(data_dir=data_dir)
    check_names(datasets)
    for name in datasets:
        directory = DataDirectory(settings.data_dir, settings.origin).download(name)
        if not quiet:
            typer.echo(printable(f"{name} is in {directory}"))


@app.command("schema", epilog="Example: pyml schema > experiments/schema.json")
def schema_command() -> None:
    """Print the JSON schema of experiment files. Editors use it to complete and check them."""
    from pyml.json_schema import experiment_schema

    typer.echo(json.dumps(experiment_schema(), indent=2))


@app.command("compare", epilog="Example: pyml compare --baseline digits_cnn --html comparison.html")
def compare_command(
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The id of a bundle, or the name of an experiment (its newest run)."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write tables and learning curves to this HTML file.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the learning curves to this PNG file.")] = None,
    models: Models = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Compare the published runs of each dataset with a baseline. The default baseline is the oldest run."""
    from pyml.reports.compare import compare_runs
    from pyml.reports.compare_report import caption, comparison_document, draw_curves, make_tables, write_html

    comparisons = compare_runs(make_settings(models).models, baseline)
    console = make_console()
    if as_json:
        print_json([comparison_document(comparison) for comparison in comparisons])
    else:
        for comparison in comparisons:
            console.print(*make_tables(comparison, console.width), sep="\n")
        console.print(caption(comparisons), highlight=False)
    for path, write in ((html, write_html), (png, draw_curves)):
        if path is not None:
            write(comparisons, path)
            if not as_json:
                console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command("sync", epilog="Example: WANDB_API_KEY=... pyml sync")
def sync_command(
    records: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RECORD]...", help="Records to upload again. Default: all that have not arrived."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Upload the recorded runs that have not arrived at Weights & Biases, and check that they arrived.

    Exit code 1 if a run has not arrived.
    """
    from pyml.tracking.sync import sync_records

    set_quiet(quiet)
    arrived = sync_records(records or [], make_settings())
    if not quiet:
        typer.echo(f"{arrived} run{'' if arrived == 1 else 's'} arrived")


def _find_bundle(bundle: str, settings: "Settings") -> Path:
    from bundle.publish import bundle_path

    published = bundle_path(settings.models, bundle)
    return published if published.is_dir() else Path(bundle)
