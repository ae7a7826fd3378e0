"""The command `pypredict report --html` as a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import publish_bundle
from support.workers import worker_for


def pypredict(db: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from pypredict.cli import main; main()", *arguments],
        env=os.environ | {"DATABASE_URL": db.url("pypredict")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_writes_the_file_and_names_it(db: Database, engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=40)
    worker_for(engine, tmp_path).run(until_empty=True)
    path = tmp_path / "report.html"
    done = pypredict(db, "report", "--html", str(path), "--models", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"report: {path} ({path.stat().st_size} bytes)" in done.stderr


def test_the_command_fails_when_the_check_finds_a_problem(db: Database, engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, n=100, n_correct=99)
    worker_for(engine, tmp_path).run(until_empty=True)
    done = pypredict(db, "report", "--html", str(tmp_path / "report.html"), "--models", str(tmp_path))
    assert done.returncode == 1
    assert "the manifest says 0.99" in done.stderr
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replay", "3"], "--replay of the report needs --html FILE"),
        (["--html", "/proc/report.html"], "/proc/report.html cannot be written"),
        (["--html", "x.html", "--replay", "some"], "--replay got 'some'"),
    ],
)
def test_wrong_options_are_one_sentence(db: Database, arguments: list[str], said: str) -> None:
    done = pypredict(db, "report", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
