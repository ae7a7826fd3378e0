"""`pypredict prune` as a process of the owner, and what is left in the tables."""

import os
import subprocess
import sys
from collections.abc import Sequence

import sqlalchemy as sa
from conftest import Database
from typer.testing import CliRunner

from bundle import BundleError
from pypredict import PypredictError
from pypredict.cli import app
from support.workers import rows

START = [sys.executable, "-c", "from pypredict.cli import main; main()"]
SHORT_LOCK = [
    sys.executable,
    "-c",
    "from pypredict import cli, deletion; deletion.LOCK_SECONDS = 1; cli.main()",
]


def pypredict(
    db: Database, *arguments: str, login: str | None = None, start: Sequence[str] = START
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*start, *arguments],
        env=os.environ | {"DATABASE_URL": db.url(login)},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def prune(db: Database, *arguments: str, start: Sequence[str] = START) -> str:
    """Prune as the owner; return what it printed."""
    done = pypredict(db, "prune", *arguments, start=start)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def sentence(db: Database, *arguments: str, login: str | None = None) -> str:
    """Call a command that is refused, in this process; return the reason."""
    called = CliRunner().invoke(app, ["prune", *arguments], env={"DATABASE_URL": db.url(login)})
    assert isinstance(called.exception, PypredictError | BundleError), called
    return str(called.exception)


def count(engine: sa.Engine, table: str, where: str = "true") -> int:
    (found,) = rows(engine, f"SELECT count(*) FROM ml.{table} WHERE {where}")
    return int(found[0])
