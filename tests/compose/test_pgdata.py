"""The database's volume: an earlier layout or another version is refused before the database starts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose.stack import Stack

FORMER = """
services:
  db:
    image: ${POSTGRES_IMAGE:-postgres:12.4}
    user: "999:999"
    environment:
      POSTGRES_DB: ml
      POSTGRES_USER: ml_owner
      POSTGRES_PASSWORD: former-words
      PGDATA: /var/lib/postgresql/data
    volumes: ["pgdata:/var/lib/postgresql/data"]
volumes: {pgdata: }
"""


@pytest.fixture
def empty(other: Stack) -> Iterator[Stack]:
    """Yield a project without volumes."""
    other.compose("down", "--volumes")
    yield other
    other.compose("down", "--volumes", "--remove-orphans")


@pytest.fixture
def former(empty: Stack, tmp_path: Path) -> Iterator[Stack]:
    """Yield a project whose database runs in the earlier layout, in the root of its volume, with one table."""
    file = tmp_path / "former.yml"
    file.write_text(FORMER)
    empty.compose("-f", str(file), "--project-directory", str(empty.directory), "up", "--detach")
    empty.until(lambda: empty.sql("SELECT 1"), "the former database answers", 60)
    empty.until(lambda: empty.sql("CREATE TABLE kept AS SELECT 'still here' AS word") == [], "the table is created", 60)
    words = empty.directory / "secrets/ml_owner"
    words.write_text("former-words\n")
    yield empty
    words.unlink()


def refusal(stack: Stack) -> str:
    """Start the stack, which must fail; return its message."""
    done = stack.compose("up", check=False)
    assert done.returncode != 0, "it was not refused"
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("pgdata-1") and "pgdata:" in line]
    return sentence


def test_former_layout_is_refused_and_the_named_command_moves_it(former: Stack) -> None:
    sentence = refusal(former)
    command = re.search(r"docker compose down && docker compose run .*$", sentence)
    assert command is not None, sentence
    former.call("sh", "-ec", command[0])
    former.compose("up", "--detach", "migrate")
    former.wait_healthy("db")
    assert former.sql("SELECT word FROM kept") == [["still here"]]
    former.until(lambda: former.number("SELECT count(*) FROM ml.alembic_version"), "the schema is there", 60)


def test_move_is_refused_while_a_server_runs(former: Stack) -> None:
    done = former.compose("run", "--rm", "--no-TTY", "pgdata", "move", check=False)
    assert done.returncode != 0
    assert "postmaster.pid says that a server runs" in done.stderr
    assert former.sql("SELECT word FROM kept") == [["still here"]]


def test_upgrade_of_the_former_layout_names_the_command_that_moves_it(former: Stack) -> None:
    former.compose("down")
    done = former.call("make", "upgrade", "STACK=1", check=False)
    assert done.returncode != 0
    assert "in the root" in done.stderr
    assert "docker compose down && docker compose run --rm pgdata move" in done.stderr


def test_interrupted_move_is_refused_and_can_go_on(former: Stack) -> None:
    former.compose("down")
    cut = 'mkdir -m 700 "$PGDATA" && mv "$PGDATA"/../base "$PGDATA"'
    former.compose("run", "--rm", "--no-TTY", "--entrypoint", "sh", "pgdata", "-ec", cut)
    assert "in the root" in refusal(former)
    former.compose("run", "--rm", "--no-TTY", "pgdata", "move")
    former.compose("up", "--detach", "db")
    former.wait_healthy("db")
    assert former.sql("SELECT word FROM kept") == [["still here"]]


def test_data_of_another_version_is_refused_by_name(empty: Stack) -> None:
    written = 'mkdir "$PGDATA" && echo 11 > "$PGDATA/PG_VERSION"'
    empty.compose("run", "--rm", "--no-TTY", "--entrypoint", "sh", "pgdata", "-ec", written)
    sentence = refusal(empty)
    assert "a database of PostgreSQL 11" in sentence
    assert "docs/upgrade.md" in sentence


def test_down_leaves_no_anonymous_volume(empty: Stack) -> None:
    before = volumes(empty)
    empty.compose("up", "--detach", "db")
    empty.compose("down")
    assert {name for name in volumes(empty) - before if not name.startswith(empty.project)} == set()


def volumes(stack: Stack) -> set[str]:
    return set(stack.call("docker", "volume", "ls", "--quiet").stdout.split())
