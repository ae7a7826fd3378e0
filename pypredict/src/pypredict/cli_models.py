"""The commands `pypredict models ...`: show and change which model serves a dataset."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle.terminal import print_json
from pypredict.cli_context import Json, ModelsDirectory, make_console, open_database
from pypredict.config import read_settings

if TYPE_CHECKING:
    import sqlalchemy as sa

    from pypredict.registry import Model

models_app = typer.Typer(no_args_is_help=True, help="Show and change which model serves a dataset.")
log = logging.getLogger("pypredict")

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model's number or its bundle's id.")]


@models_app.command("list", epilog="Example: pypredict models list")
def list_command(models: ModelsDirectory = None, as_json: Json = False) -> None:
    """List every published model and its state; the serving model predicts."""
    from pypredict.registry import list_models
    from pypredict.report import models_table

    settings = read_settings()
    with open_database(settings) as engine:
        _register_new(engine, models or settings.models)
        with engine.begin() as connection:
            registered = list_models(connection)
    if as_json:
        print_json(registered)
    else:
        make_console().print(models_table(registered))


@models_app.command("history", epilog="Example: pypredict models history digits")
def history_command(dataset: Annotated[str | None, typer.Argument(help="Only this dataset.")] = None) -> None:
    """Show each change of the serving model with its time and reason, and the declined proposals."""
    from pypredict.registry import check_dataset
    from pypredict.report import history_table

    with open_database(read_settings()) as engine, engine.begin() as connection:
        if dataset is not None:
            check_dataset(connection, dataset)
        make_console().print(history_table(connection, dataset))


@models_app.command("promote", epilog="Example: pypredict models promote 3 --rescore")
def promote_command(
    model: ModelName,
    rescore: Annotated[bool, typer.Option("--rescore", help="Also predict the older inputs of the dataset.")] = False,
    models: ModelsDirectory = None,
) -> None:
    """Let a model serve its dataset; the model that served until now is retired."""
    from pypredict.jobs import rescore as plan_older
    from pypredict.promotion import promote
    from pypredict.registry import find_model

    settings = read_settings()
    directory = models or settings.models
    with open_database(settings) as engine:
        _register_new(engine, directory)
        with engine.begin() as connection:
            found = find_model(connection, model)
        _serve(engine, directory, found, promote)
        with engine.begin() as connection:
            planned = plan_older(connection, found.dataset) if rescore else 0
    more = f"; {planned} older jobs planned" if rescore else ""
    log.info("model %d (%s) serves %s%s", found.model_id, found.bundle_id, found.dataset, more)


@models_app.command("retire", epilog="Example: pypredict models retire 3")
def retire_command(model: ModelName) -> None:
    """Retire a serving model; its predictions stay."""
    from pypredict.promotion import retire
    from pypredict.registry import find_model

    with open_database(read_settings()) as engine, engine.begin() as connection:
        found = find_model(connection, model)
        retire(connection, found)
    log.info("model %d (%s) is retired; no model serves %s", found.model_id, found.bundle_id, found.dataset)


@models_app.command("rollback", epilog="Example: pypredict models rollback digits")
def rollback_command(dataset: str, models: ModelsDirectory = None) -> None:
    """Let the previous model serve a dataset again; each call goes one step further back."""
    from pypredict.promotion import roll_back, served_before
    from pypredict.registry import find_model

    settings = read_settings()
    with open_database(settings) as engine:
        with engine.begin() as connection:
            found = find_model(connection, str(served_before(connection, dataset)))
        _serve(engine, models or settings.models, found, roll_back)
    log.info("model %d (%s) serves %s again", found.model_id, found.bundle_id, dataset)


def _register_new(engine: "sa.Engine", directory: Path) -> None:
    """Register new bundles, so that a command can name them; do nothing without a models directory."""
    from pypredict.models import Models
    from pypredict.publications import Publications

    Publications(engine, directory, Models(directory)).register_new()


def _serve(
    engine: "sa.Engine", directory: Path, model: "Model", serve: Callable[["sa.Connection", "Model"], None]
) -> None:
    """Verify a registered model, test one prediction, then let it serve. Raises BundleError."""
    from bundle.publish import bundle_path
    from bundle.verify import open_bundle
    from pypredict.models import Models
    from pypredict.publications import put_into_service

    bundle = open_bundle(bundle_path(directory, model.bundle_id))
    put_into_service(engine, Models(directory), bundle, model, serve)
