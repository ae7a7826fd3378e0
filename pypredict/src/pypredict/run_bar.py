"""The progress bar of `pypredict run --until-empty`, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

from bundle.terminal import progress_bar
from pypredict.database import OUTAGE
from pypredict.status import read_status


@contextmanager
def run_bar(engine: sa.Engine, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar until the end of the block; give the function to call after each commit, with its number of inputs.

    The first call counts the open inputs: only then new models are registered and their jobs planned.
    """
    with progress_bar() as bar:
        task = bar.add_task("predict", total=None, visible=shown)

        def advance(n_inputs: int) -> None:
            if shown and not bar.disable and bar.tasks[0].total is None:
                with suppress(*OUTAGE), engine.begin() as connection:
                    bar.update(task, total=n_inputs + read_status(connection).open_inputs)
            bar.advance(task, n_inputs)

        yield advance
