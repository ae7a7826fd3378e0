"""The command line: `pyml download`, `train`, `test`, `all`, `compare`, `sync`, `schema`.

Exit codes: 0 done; 1 something came that was not usable, or a bundle does not hold what it promises; 2 wrong usage;
130 and 143 stopped by Ctrl-C and SIGTERM. An error is one sentence on stderr, never a traceback.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import BundleError
from pyml import PymlError
from pyml.process import Terminated, raise_on_sigterm

if TYPE_CHECKING:
    from bundle.verify import Bundle
    from pyml.config import Settings

log = logging.getLogger("pyml")

main = typer.Typer(
    help="Train a Keras model from an experiment file, track it, publish it as a bundle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ExperimentPaths = Annotated[list[Path], typer.Argument(metavar="EXPERIMENT...", help="Experiments, JSON files.")]
BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's id, or the directory it lies in.")]
Models = Annotated[Path | None, typer.Option(metavar="DIR", help="The models volume.", show_default="PYML_MODELS")]
DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where data sets lie.", show_default="PYML_DATA_DIR, else data")
]
Group = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The runs' group in W&B.", show_default="the files' names, if several"),
]
RequireClean = Annotated[bool, typer.Option("--require-clean", help="Refuse a git tree that differs from its commit.")]
Promote = Annotated[
    bool, typer.Option("--promote", help="Serve the best of them also where the current model's accuracy is higher.")
]
Force = Annotated[bool, typer.Option("--force", help="Train also what is published already, beside it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]


@main.command()
def train(
    experiments: ExperimentPaths,
    *,
    promote: Promote = False,
    force: Force = False,
    require_clean: RequireClean = False,
    group: Group = None,
    models: Models = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Train experiments and publish their bundles; what is published already is not trained again.

    Several files, and the grid that a file may hold, are checked first, then trained in sequence as one group. Of each
    dataset the best on the validation set is then proposed as the current model.

    Example: pyml train experiments/digits_cnn.json
    """
    with _station(quiet):
        settings = _settings(models, data_dir, group)
        _train(experiments, settings, promote=promote, force=force, clean=require_clean, quiet=quiet)


@main.command(name="test")
def verify_and_measure(bundle: BundleName, models: Models = None, quiet: Quiet = False) -> None:
    """Verify a bundle, predict its held-out set and compare with its manifest; exit code 1 where they differ.

    Example: pyml test digits_cnn-0123456789ab
    """
    with _station(quiet):
        _test(_find(bundle, _settings(models)), quiet)


@main.command(name="all")
def train_and_test(
    experiments: ExperimentPaths,
    *,
    promote: Promote = False,
    force: Force = False,
    require_clean: RequireClean = False,
    group: Group = None,
    models: Models = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Train experiments, then test what was published.

    Example: pyml all experiments/digits_cnn.json
    """
    with _station(quiet):
        settings = _settings(models, data_dir, group)
        _train(experiments, settings, promote=promote, force=force, clean=require_clean, quiet=quiet, then=_test)


@main.command()
def download(
    datasets: Annotated[list[str], typer.Argument(metavar="NAME...", help="mnist, fashion_mnist, imdb.")],
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Fetch known data sets into the data directory, each file with its sha256 checked.

    Example: pyml download mnist
    """
    with _station(quiet):
        from pyml.origin import check_names, download

        check_names(datasets)
        for name in datasets:
            directory = download(name, _settings(data_dir=data_dir))
            if not quiet:
                typer.echo(f"{name} is in {directory}")


@main.command()
def schema() -> None:
    """Print the JSON schema of experiment files, by which editors complete and check them.

    Example: pyml schema > experiments/schema.json
    """
    from pyml.schema import experiment_schema

    typer.echo(json.dumps(experiment_schema(), indent=2))


@main.command()
def compare(
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="A bundle's id, or an experiment's name for its newest run.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write tables and curves as one HTML file.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curves into this PNG.")] = None,
    models: Models = None,
) -> None:
    """Compare the published runs of each data set with a baseline, without one with its oldest run.

    Example: pyml compare --baseline digits_cnn --html comparison.html
    """
    with _station(quiet=False):
        from rich.console import Console

        from pyml.compare import compare_runs
        from pyml.compare_view import caption, draw_curves, make_tables, write_html

        comparisons = compare_runs(_settings(models).models, baseline)
        console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=240)
        for comparison in comparisons:
            console.print(*make_tables(comparison, console.width), sep="\n")
        console.print(caption(comparisons), highlight=False)
        for path, write in ((html, write_html), (png, draw_curves)):
            if path is not None:
                write(comparisons, path)
                console.print(f"written: {path}", highlight=False, soft_wrap=True)


@main.command()
def sync(
    records: Annotated[
        list[Path] | None, typer.Argument(metavar="[RECORD]...", help="Records to upload again; none: all that lack.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Upload the recorded runs that have not arrived at Weights & Biases, and read back that they did.

    Exit code 1 when one has not arrived. Example: WANDB_API_KEY=... pyml sync
    """
    with _station(quiet):
        from pyml.sync import sync_records

        arrived = sync_records(records or [], _settings())
        if not quiet:
            typer.echo(f"{arrived} run{'' if arrived == 1 else 's'} arrived")


def _settings(models: Path | None = None, data_dir: Path | None = None, group: str | None = None) -> "Settings":
    from pyml.config import read_settings

    given = {"models": models, "data_dir": data_dir, "wandb_group": group}
    return read_settings().model_copy(update={name: value for name, value in given.items() if value is not None})


def _train(
    paths: list[Path],
    settings: "Settings",
    *,
    promote: bool,
    force: bool,
    clean: bool,
    quiet: bool,
    then: Callable[[Path, bool], None] | None = None,
) -> None:
    """Train all experiments, do `then` with each bundle, propose the best; one that fails does not stop the others."""
    from pyml.experiment import read_experiments
    from pyml.promotion import Candidate, propose_best
    from pyml.provenance import require_clean
    from pyml.source import Shelf
    from pyml.train import check_experiments, train

    experiments = [experiment for path in paths for experiment in read_experiments(path)]
    if clean:
        require_clean(settings)
    shelf = Shelf(settings)
    check_experiments(experiments, settings, shelf)
    if len(experiments) > 1:
        group = settings.wandb_group or "+".join(dict.fromkeys(path.stem for path in paths))[:100]
        settings = settings.model_copy(update={"wandb_group": group})
    failed: list[str] = []
    trained: list[Candidate] = []
    for experiment in experiments:
        try:
            bundle, _ = train(experiment, settings, force, shelf)
            _say_how_good(bundle, quiet)
            if then is not None:
                then(bundle.path, quiet)
            trained.append(Candidate(bundle, experiment.promote_if))
        except (PymlError, BundleError) as error:
            if len(experiments) == 1:
                raise
            log.error("%s", error)
            failed.append(experiment.name)
    propose_best(settings.models, trained, promote=promote)
    if failed:
        raise PymlError(f"{len(failed)} of {len(experiments)} experiments failed: {', '.join(failed)}")


def _say_how_good(bundle: "Bundle", quiet: bool) -> None:
    from rich.console import Console

    from pyml.scorecard import class_table, headline

    if not quiet:
        Console().print(headline(bundle.manifest), highlight=False, soft_wrap=True)
        if bundle.manifest.metrics.per_class:
            Console().print(class_table(bundle.manifest))


def _test(path: Path, quiet: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from pyml.retest import retest

    comparisons = retest(path)
    differing = [row.figure for row in comparisons if not row.agrees]
    if not quiet or differing:
        table = Table("figure", "manifest", "measured", "", title=path.name)
        for row in comparisons:
            if row.of_class and row.agrees:
                continue  # dozens of them
            table.add_row(row.figure, repr(row.promised), repr(row.measured), "equal" if row.agrees else "DIFFERENT")
        Console().print(table)
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise PymlError(f"{path.name} does not give what its manifest promises: {', '.join(differing[:5])}{more}")


def _find(bundle: str, settings: "Settings") -> Path:
    from bundle.publish import bundle_path

    published = bundle_path(settings.models, bundle)
    return published if published.is_dir() else Path(bundle)


@contextmanager
def _station(quiet: bool) -> Iterator[None]:
    """Set the process up for one verb and end it with an exit code that means something."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    raise_on_sigterm()
    try:
        yield
    except (PymlError, BundleError) as error:
        typer.echo(f"pyml: {error}", err=True)
        raise typer.Exit(1) from error
    except Terminated as error:
        typer.echo("pyml: stopped by SIGTERM; no bundle was left half-written", err=True)
        raise typer.Exit(143) from error
    except KeyboardInterrupt as error:
        typer.echo("pyml: stopped by Ctrl-C; no bundle was left half-written", err=True)
        raise typer.Exit(130) from error
