"""The command line: `pyml train`, `pyml test`, `pyml all`.

Exit codes: 0 done; 1 something came that was not usable, or a bundle does not hold what it promises; 2 wrong usage;
130 and 143 stopped by Ctrl-C and SIGTERM. An error is one sentence on stderr, never a traceback.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import BundleError
from pyml import PymlError
from pyml.process import Terminated, raise_on_sigterm

if TYPE_CHECKING:
    from pyml.config import Settings

log = logging.getLogger("pyml")

main = typer.Typer(
    help="Train a Keras model from an experiment file, track it, publish it as a bundle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ExperimentPath = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="The experiment, a JSON file.")]
BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's id, or the directory it lies in.")]
Models = Annotated[Path | None, typer.Option(metavar="DIR", help="The models volume.", show_default="PYML_MODELS")]
Force = Annotated[bool, typer.Option("--force", help="Train also what is published already, beside it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]


@main.command()
def train(experiment: ExperimentPath, force: Force = False, models: Models = None, quiet: Quiet = False) -> None:
    """Train an experiment and publish the bundle; what is published already is not trained again.

    Example: pyml train experiments/digits_cnn.json
    """
    with _station(quiet):
        _train(experiment, force, _settings(models), quiet)


@main.command(name="test")
def verify_and_measure(bundle: BundleName, models: Models = None, quiet: Quiet = False) -> None:
    """Verify a bundle, predict its held-out set and compare with its manifest; exit code 1 where they differ.

    Example: pyml test digits_cnn-0123456789ab
    """
    with _station(quiet):
        _test(_find(bundle, _settings(models)), quiet)


@main.command(name="all")
def train_and_test(
    experiment: ExperimentPath, force: Force = False, models: Models = None, quiet: Quiet = False
) -> None:
    """Train an experiment, then test what was published.

    Example: pyml all experiments/digits_cnn.json
    """
    with _station(quiet):
        _test(_train(experiment, force, _settings(models), quiet), quiet)


def _settings(models: Path | None) -> "Settings":
    from pyml.config import read_settings

    settings = read_settings()
    return settings if models is None else settings.model_copy(update={"models": models})


def _train(experiment: Path, force: bool, settings: "Settings", quiet: bool) -> Path:
    from rich.console import Console

    from pyml.experiment import read_experiment
    from pyml.train import train

    bundle, _ = train(read_experiment(experiment), settings, force)
    metrics = bundle.manifest.metrics
    if not quiet:
        Console().print(
            f"{bundle.manifest.bundle_id}: test accuracy {metrics.accuracy!r} ({metrics.n_correct} of {metrics.n}), "
            f"macro F1 {metrics.macro_f1:.4f}, loss {metrics.loss:.4f}",
            highlight=False,
            soft_wrap=True,
        )
    return bundle.path


def _test(path: Path, quiet: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from pyml.retest import retest

    comparisons = retest(path)
    differing = [row.figure for row in comparisons if not row.agrees]
    if not quiet or differing:
        table = Table("figure", "manifest", "measured", "", title=path.name)
        for row in comparisons:
            table.add_row(row.figure, repr(row.promised), repr(row.measured), "equal" if row.agrees else "DIFFERENT")
        Console().print(table)
    if differing:
        raise PymlError(f"{path.name} does not give what its manifest promises: {', '.join(differing)}")


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
