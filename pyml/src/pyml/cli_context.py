"""Common parts of the trainer's commands: options, settings, and the console."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from pyml.config import Settings

log = logging.getLogger("pyml")

Models = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The directory of the published models.", show_default="PYML_MODELS")
]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The directory of the datasets.", show_default="PYML_DATA_DIR, else data"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]


def set_quiet(quiet: bool) -> None:
    """Show warnings and errors only, or also what is done."""
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def make_settings(models: Path | None = None, data_dir: Path | None = None, group: str | None = None) -> "Settings":
    """Read the settings; what is given here replaces them."""
    from pyml.config import read_settings

    given = {"models": models, "data_dir": data_dir, "wandb_group": group}
    return read_settings().model_copy(update={name: value for name, value in given.items() if value is not None})


def make_console() -> "Console":
    """Make the console for tables. A pipe has no width, so tables get 240 columns there."""
    return terminal.make_console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 240)
