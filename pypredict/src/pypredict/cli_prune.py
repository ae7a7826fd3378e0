"""The commands `pypredict prune ...`: say what would go; with --yes delete it, and say how many bytes are free."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from pypredict import PypredictError
from pypredict.cli_context import ModelsDirectory, make_console, open_database
from pypredict.config import read_settings

if TYPE_CHECKING:
    import sqlalchemy as sa

    from pypredict.deletion import Selection, Unit

prune_app = typer.Typer(
    no_args_is_help=True, help="Delete old or wrong data, as the owner. Without --yes, only say what would go."
)
log = logging.getLogger("pypredict")

Dataset = Annotated[str | None, typer.Option(help="Only this dataset.")]
Yes = Annotated[bool, typer.Option("--yes", help="Delete. Without it, nothing changes.")]
Full = Annotated[
    bool, typer.Option("--full", help="Give all free space back to the disk; each table is locked meanwhile.")
]
AGE = re.compile(r"(\d{1,5})([hdw])")
UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@prune_app.command("inputs", epilog="Example: pypredict prune inputs --older-than 90d")
def inputs_command(
    *,
    source: Annotated[str | None, typer.Option(help="Only this source, as ml.inputs names it.")] = None,
    dataset: Dataset = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only inputs loaded before this time: 12h, 90d, 8w.")
    ] = None,
    test_sets: Annotated[
        bool, typer.Option("--test-sets", help="Also test sets, except those of models that serve.")
    ] = False,
    yes: Yes = False,
    full: Full = False,
) -> None:
    """Delete inputs with their names, jobs, predictions and errors.

    A chunk in work and the test sets of registered models are kept, and named.
    """
    from pypredict.deletion import select_inputs

    age = None if older_than is None else parse_age(older_than)
    _prune(
        lambda connection: select_inputs(connection, source=source, dataset=dataset, age=age, test_sets=test_sets),
        yes=yes,
        full=full,
    )


@prune_app.command("predictions", epilog="Example: pypredict prune predictions --retired")
def predictions_command(
    *,
    retired: Annotated[bool, typer.Option("--retired", help="Those of retired models; required.")] = False,
    dataset: Dataset = None,
    yes: Yes = False,
    full: Full = False,
) -> None:
    """Delete what retired models predicted, except on their own test sets.

    An input that no other model has predicted is then predicted by the model that serves.
    """
    from pypredict.deletion import select_retired

    if not retired:
        raise PypredictError("which predictions? give --retired: only those of retired models can be deleted")
    _prune(lambda connection: select_retired(connection, dataset), yes=yes, full=full)


@prune_app.command("bundles", epilog="Example: pypredict prune bundles --older-than 2w")
def bundles_command(
    *,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Only bundles published before this time.")] = "1d",
    models: ModelsDirectory = None,
    yes: Yes = False,
) -> None:
    """Delete bundles that no registered model names. A bundle that a pointer names is kept."""
    from bundle.publish import remove_bundles
    from pypredict.deletion import check_owner
    from pypredict.registry import registered_bundles
    from pypredict.report import unregistered_table
    from pypredict.unregistered import find_unregistered

    age = parse_age(older_than)
    settings = read_settings()
    directory = models or settings.models
    with open_database(settings) as engine, engine.begin() as connection:
        check_owner(connection)
        found = find_unregistered(directory, registered_bundles(connection, hold=yes), age)
        going = [bundle for bundle in found if bundle.kept is None]
        if yes:  # still in the transaction, in which no worker registers a bundle
            remove_bundles(directory, [bundle.bundle_id for bundle in going])
    if going:
        make_console().print(unregistered_table(going))
    for bundle in found:
        if bundle.kept is not None:
            _print(f"kept: {bundle.bundle_id}: {bundle.kept}")
    size = sum(bundle.bytes for bundle in going)
    if yes:
        log.info("%d bundles are deleted: %s bytes went back to the disk", len(going), f"{size:,}")
    else:
        _print(f"{len(going)} bundles, {size:,} bytes. Nothing is deleted; --yes deletes it")


def parse_age(given: str) -> timedelta:
    """Read an age such as 12h, 90d or 8w. Raises PypredictError."""
    found = AGE.fullmatch(given)
    if found is None:
        raise PypredictError(f"--older-than {given!r}: give a number and h, d or w, for example 12h, 90d or 8w")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def _prune(select: "Callable[[sa.Connection], Selection]", *, yes: bool, full: bool) -> None:
    """Print what is selected; with `yes`, delete it unit by unit."""
    from pypredict.deletion import check_owner

    if full and not yes:
        raise PypredictError("--full gives space back after a deletion; add --yes, or leave it out")
    with open_database(read_settings()) as engine:
        with engine.begin() as connection:
            check_owner(connection)
            selection = select(connection)
            units = selection.read(connection)
        going = [unit for unit in units if unit.kept is None]
        _print_units(going)
        _print_kept(units)
        if yes:
            _delete(engine, selection, going, full=full)
        else:
            _print(
                f"{_summary(going)}, {sum(unit.bytes for unit in going):,} bytes. Nothing is deleted; --yes deletes it"
            )


def _delete(engine: "sa.Engine", selection: "Selection", going: "Sequence[Unit]", *, full: bool) -> None:
    from bundle.terminal import progress_bar
    from pypredict.deletion import delete_unit
    from pypredict.disk_space import free_space

    done: list[Unit] = []
    with free_space(engine, full=full) as freed:
        with progress_bar() as progress:
            for unit in progress.track(going, description="delete"):
                with engine.begin() as connection:
                    found = delete_unit(connection, selection, unit)
                done += [] if found is None else [found]
        deleted = [unit for unit in done if unit.kept is None]
        freed.deleted = sum(unit.bytes for unit in deleted)
    _print_kept(unit for unit in done if unit.kept is not None)
    log.info(
        "%s are deleted: %s bytes went back to the disk, about %s bytes can be used again by new rows",
        _summary(deleted),
        f"{freed.returned:,}",
        f"{0 if full else freed.reusable:,}",
    )


def _summary(units: "Sequence[Unit]") -> str:
    outcomes = f"{sum(unit.outcomes for unit in units):,} predictions and errors"
    if units and units[0].model_id is not None:
        return outcomes
    return f"{sum(unit.inputs for unit in units):,} inputs in {len(units):,} chunks with {outcomes}"


def _print_units(units: "Sequence[Unit]") -> None:
    from pypredict.report import units_table

    if units:
        make_console().print(units_table(units))
    alone = sum({unit.chunk_id: unit.inputs for unit in units if unit.only}.values())
    if alone:
        _print(f"no other model has predicted {alone:,} of these inputs; the model that serves will predict them")


def _print_kept(units: "Iterable[Unit]") -> None:
    inputs: Counter[str] = Counter()
    for unit in units:
        if unit.kept is not None:
            inputs[unit.kept] += unit.inputs
    for kept, n in inputs.items():
        _print(f"kept: {n:,} inputs: {kept}")


def _print(line: str) -> None:
    make_console().print(line, highlight=False, soft_wrap=True)
