"""The command line of the trainer. It reads the settings once and passes them to the functions.

Longer than 300 lines, because each command is one short function here.

Exit codes: 0 success; 1 error (one sentence on stderr); 2 wrong usage; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import BundleError, __version__
from bundle.messages import printable
from bundle.terminal import exit_with_error, log_to_stderr, make_console, print_json
from pyml import PymlError
from pyml.process import Stopped, raise_on_signals

if TYPE_CHECKING:
    from rich.console import Console

    from bundle.verify import Bundle
    from pyml.config import Settings
    from pyml.experiment.experiment import Experiment

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger("pyml")

ExperimentPaths = Annotated[list[Path], typer.Argument(metavar="EXPERIMENT...", help="Experiment files (JSON).")]
BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help="The id of a bundle, or its directory.")]
Models = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The directory of the published models.", show_default="PYML_MODELS")
]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The directory of the datasets.", show_default="PYML_DATA_DIR, else data"),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The group of the runs in W&B.", show_default="the names of the files, if several"
    ),
]
RequireClean = Annotated[bool, typer.Option("--require-clean", help="Stop if the git tree has uncommitted changes.")]
Promote = Annotated[
    bool, typer.Option("--promote", help="Propose the best model even if the current model has a higher accuracy.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Train published experiments again; publish a new bundle beside the old one.")
]
Share = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Train one of N shares of the experiments, and propose none. I counts from 0 to N - 1, because "
        "JOB_COMPLETION_INDEX of Kubernetes counts from 0. "
        "Afterwards the same command without --share proposes the best.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]
TrainEngine = Enum("TrainEngine", {"RAY": "ray"})
Engine = Annotated[TrainEngine | None, typer.Option(help="ray: spread the experiments over a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The Ray cluster.", show_default="one on this machine")
]
AfterEach = Callable[[Path, bool], None]  # takes a bundle's directory and `quiet`


def main() -> None:
    """Run the command line. An error prints one sentence on stderr and no traceback, and sets the exit code."""
    log_to_stderr("%(message)s", logging.WARNING, as_json=os.environ.get("PYML_LOG") == "json")
    log.setLevel(logging.INFO)
    raise_on_signals()
    try:
        app()
    except (PymlError, BundleError) as error:
        exit_with_error("pyml", str(error))
    except Stopped as stopped:
        exit_with_error("pyml", f"stopped by {stopped.signal}; no incomplete bundle is left", stopped.code)


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


@app.command("train", epilog="Example: pyml train experiments/digits_cnn.json")
def train_command(
    experiments: ExperimentPaths,
    *,
    promote: Promote = False,
    force: Force = False,
    share: Share = None,
    require_clean: RequireClean = False,
    group: Group = None,
    models: Models = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    engine: Engine = None,
    address: Address = None,
) -> None:
    """Train experiments and publish their bundles. An experiment that is published already is not trained again.

    A file can hold one experiment or a grid. All experiments are checked before the first training. Several experiments
    are trained one after the other, as one group. For each dataset, the model that is best on the validation set is
    then proposed as the current model.
    """
    if share is not None and promote:
        raise PymlError("a share proposes no model: give --promote to the command without --share, after all shares")
    settings = _settings(models, data_dir, group)
    if engine is not None and force:
        raise PymlError("--force and --engine exclude each other: a task that Ray repeats would train twice")
    if engine is not None and share is not None:
        raise PymlError("--share and --engine exclude each other: Ray spreads all experiments itself")
    _train(
        experiments,
        settings,
        promote=promote,
        force=force,
        share=share,
        require_clean=require_clean,
        quiet=quiet,
        on_ray=engine is not None,
        address=address,
    )


@app.command("all", epilog="Example: pyml all experiments/digits_cnn.json")
def all_command(
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
    """Train experiments, test the published bundles, then propose the best bundle that passed its test."""
    settings = _settings(models, data_dir, group)
    _train(
        experiments, settings, promote=promote, force=force, require_clean=require_clean, quiet=quiet, after_each=_test
    )


@app.command("test", epilog="Example: pyml test digits_cnn-0123456789ab")
def recheck_command(bundle: BundleName, models: Models = None, quiet: Quiet = False) -> None:
    """Verify a bundle, predict its test set again, compare its metrics with the manifest (exit code 1: they differ)."""
    _set_quiet(quiet)
    _test(_find_bundle(bundle, _settings(models)), quiet)


@app.command("download", epilog="Example: pyml download mnist")
def download_command(
    datasets: Annotated[list[str], typer.Argument(metavar="NAME...", help="mnist, fashion_mnist, imdb.")],
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Download known datasets into the data directory and check the sha256 of each file."""
    from pyml.datasets.download import DataDirectory, check_names

    _set_quiet(quiet)
    settings = _settings(data_dir=data_dir)
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

    comparisons = compare_runs(_settings(models).models, baseline)
    console = _console()
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
                console.print(f"written: {path}", highlight=False, soft_wrap=True)


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

    _set_quiet(quiet)
    arrived = sync_records(records or [], _settings())
    if not quiet:
        typer.echo(f"{arrived} run{'' if arrived == 1 else 's'} arrived")


def _set_quiet(quiet: bool) -> None:
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def _settings(models: Path | None = None, data_dir: Path | None = None, group: str | None = None) -> "Settings":
    from pyml.config import read_settings

    given = {"models": models, "data_dir": data_dir, "wandb_group": group}
    return read_settings().model_copy(update={name: value for name, value in given.items() if value is not None})


def _console() -> "Console":
    """Make the console for tables. A pipe has no width, so tables get 240 columns there."""
    return make_console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 240)


def _train(
    paths: list[Path],
    settings: "Settings",
    *,
    promote: bool,
    force: bool,
    require_clean: bool,
    quiet: bool,
    share: str | None = None,
    after_each: AfterEach | None = None,
    on_ray: bool = False,
    address: str | None = None,
) -> None:
    """Train all experiments, call `after_each` per bundle, propose the best. A failure does not stop the others.

    share: train one share only, and propose none; the group in W&B is that of all experiments.
    """
    from pyml.datasets.load import DatasetCache
    from pyml.experiment.experiment import read_experiments
    from pyml.promotion.proposal import Candidate, propose_best
    from pyml.provenance import check_clean
    from pyml.training.train import check_experiments, train

    _set_quiet(quiet)
    experiments = [experiment for path in paths for experiment in read_experiments(path)]
    if len(experiments) > 1:
        group = settings.wandb_group or "+".join(dict.fromkeys(path.stem for path in paths))[:100]
        settings = settings.model_copy(update={"wandb_group": group})
    if share is not None:
        experiments = _take_share(experiments, share)
    if require_clean:
        check_clean(settings)
    datasets = DatasetCache(settings)
    check_experiments(experiments, settings, datasets)
    problems: dict[str, str] = {}
    if on_ray:
        from pyml.ray_engine import train_on_ray

        problems = train_on_ray(experiments, settings, datasets, address)
    failed: list[str] = []
    trained: list[Candidate] = []
    for experiment in experiments:
        try:
            if experiment.name in problems:
                raise PymlError(problems[experiment.name])
            bundle, _ = train(experiment, settings, force=force, datasets=datasets)
            if not quiet:
                _show_metrics(bundle)
            if after_each is not None:
                after_each(bundle.path, quiet)
            trained.append(Candidate(bundle, experiment.promote_if))
        except (PymlError, BundleError) as error:
            if len(experiments) == 1:
                raise
            log.error("%s", error)
            failed.append(experiment.name)
    if share is None:
        propose_best(settings.models, trained, promote=promote)
    if failed:
        raise PymlError(f"{len(failed)} of {len(experiments)} experiments failed: {', '.join(failed)}")


def _take_share(experiments: list["Experiment"], share: str) -> list["Experiment"]:
    from pyml.experiment.grid import take_share

    taken = take_share(experiments, share)
    if taken:
        log.info("share %s: %d of %d experiments, none is proposed", share, len(taken), len(experiments))
    else:
        log.info("share %s has nothing to train: there are more shares than experiments", share)
    return taken


def _show_metrics(bundle: "Bundle") -> None:
    from pyml.reports.summary import class_table, headline

    console = _console()
    console.print(headline(bundle.manifest), highlight=False, soft_wrap=True)
    if bundle.manifest.metrics.per_class:
        console.print(class_table(bundle.manifest))


def _test(path: Path, quiet: bool) -> None:
    from pyml.evaluation.recheck import recheck
    from pyml.reports.summary import recheck_table

    checks = recheck(path)
    differing = [check.metric for check in checks if not check.agrees]
    if not quiet or differing:
        _console().print(recheck_table(path.name, checks))
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise PymlError(f"the metrics of {path.name} differ from its manifest: {', '.join(differing[:5])}{more}")


def _find_bundle(bundle: str, settings: "Settings") -> Path:
    from bundle.publish import bundle_path

    published = bundle_path(settings.models, bundle)
    return published if published.is_dir() else Path(bundle)
