"""Backup, restore and upgrade of the stack, by the commands of docs/backup.md and docs/upgrade.md. In this order."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from compose.stack import Done, Stack
from support.page_commands import REPO, commands


def make(stack: Stack, *words: str, check: bool = True) -> Done:
    return stack.call("make", *words, "STACK=1", check=check, timeout=600)


def counts(stack: Stack) -> dict[str, str]:
    """Count the rows of each table; `contents` without the transactions."""
    return {table: content.split()[0] for table, content in stack.contents().items()}


@pytest.fixture(scope="module")
def saved(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the running stack, which is started anew."""
    stack.up()
    stack.wait_predicted()
    directory = tmp_path_factory.mktemp("backups") / "first"
    make(stack, "backup", f"DIR={directory}")
    assert stack.inspect(stack.container("pypredict"))["State"]["Running"]
    return directory


def test_one_flipped_byte_is_refused(stack: Stack, saved: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(saved, tmp_path / "damaged")
    content = bytearray((damaged / "database.dump").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "database.dump").write_bytes(content)
    done = make(stack, "restore", f"DIR={damaged}", check=False)
    assert done.returncode != 0
    assert "is damaged: database.dump has changed; use another backup" in done.stderr


def test_a_stack_that_is_not_empty_is_refused(stack: Stack, saved: Path) -> None:
    before = stack.contents()
    done = make(stack, "restore", f"DIR={saved}", check=False)
    assert done.returncode != 0
    assert "the installation is not empty" in done.stderr
    assert stack.contents() == before


def test_a_destroyed_stack_is_restored(stack: Stack, saved: Path) -> None:
    before = counts(stack)
    listing = ("sh", "-c", "cd /models && find . -type f | xargs sha256sum | sort")
    models = stack.run_in("pypredict", *listing).stdout
    stack.compose("down", "--volumes")
    done = make(stack, "restore", f"DIR={saved}")
    assert f"{before['prediction']} of {before['prediction']} predictions repeated bit for bit" in done.stderr
    assert counts(stack) == before
    stack.compose("up", "--detach", "--no-deps", "pypredict")
    assert stack.run_in("pypredict", *listing).stdout == models


def skip_on_18(stack: Stack) -> None:
    if stack.sql("SHOW server_version_num")[0][0] >= "180000":
        pytest.skip("NOT TESTED: POSTGRES_IMAGE is the recommended version already")


@contextmanager
def upgrade_at_work(stack: Stack) -> Iterator[subprocess.Popen[str]]:
    """Start an upgrade; stop it when its two servers run, and yield. Kill it at the end, unless it goes on and ends."""
    with stack.background("make", "upgrade", "STACK=1") as (running, output):
        stack.until(
            lambda: running.poll() is not None or servers(stack) == {"old", "new"}, "both servers run", seconds=120
        )
        os.killpg(running.pid, signal.SIGSTOP)  # otherwise it may end while a test looks
        assert running.poll() is None, output()
        assert servers(stack) == {"old", "new"}
        yield running


def servers(stack: Stack) -> set[str]:
    """Return which servers of an upgrade run."""
    names = stack.call("docker", "ps", "--format", "{{.Names}}").stdout.split()
    start = f"{stack.project}-upgrade-"
    return {name.removeprefix(start) for name in names if name.startswith(start)}


def test_an_interrupted_upgrade_starts_the_services_again(stack: Stack) -> None:
    skip_on_18(stack)
    before = counts(stack)
    with upgrade_at_work(stack) as running:
        second = make(stack, "upgrade", check=False)
        assert second.returncode != 0
        assert "another run uses the database in" in second.stderr
        assert servers(stack) == {"old", "new"}
        os.killpg(running.pid, signal.SIGINT)
        os.killpg(running.pid, signal.SIGCONT)
        running.wait(timeout=200)
    stack.wait_healthy("db", "pypredict")
    assert counts(stack) == before
    assert stack.sql("SHOW server_version_num")[0][0] < "180000"
    assert servers(stack) == set()
    assert "upgrade-running" not in on_volume(stack, 'ls "${PGDATA%/*}"')


def test_no_server_starts_beside_that_of_a_killed_upgrade(stack: Stack) -> None:
    skip_on_18(stack)
    with upgrade_at_work(stack):
        pass
    assert "old" in servers(stack)
    assert stack.compose("up", "--detach", "db", check=False).returncode != 0
    sentence = stack.compose("logs", "--no-log-prefix", "--no-color", "--tail", "1", "pgdata").stdout
    assert "pgdata: make upgrade STACK=1 still runs, or was killed" in sentence
    stack.call("sh", "-ec", sentence.partition("to use the old version: ")[2])
    stack.compose("up", "--detach", "--no-deps", "--wait", "db", "pypredict")


def test_upgrade_moves_the_database_to_18(stack: Stack) -> None:
    skip_on_18(stack)
    before = counts(stack)
    with upgrade_at_work(stack):
        pass  # killed: the next one removes its containers and begins anew
    assert "upgrade-running" in on_volume(stack, 'ls "${PGDATA%/*}"')
    done = make(stack, "upgrade")
    assert servers(stack) == set()
    assert f"{before['prediction']} of {before['prediction']} predictions repeated bit for bit" in done.stderr
    assert stack.sql("SHOW server_version_num")[0][0] >= "180000"
    assert counts(stack) == before
    assert "POSTGRES_IMAGE=postgres:18" in (stack.directory / ".env").read_text().splitlines()
    assert "cluster-12" in on_volume(stack, 'ls "${PGDATA%/*}"')


def on_volume(stack: Stack, script: str) -> str:
    """Run a script on the volume pgdata; return its output."""
    return stack.compose("run", "--rm", "--no-TTY", "--no-deps", "--entrypoint", "sh", "pgdata", "-ec", script).stdout


def skip_without_old_data(stack: Stack) -> None:
    if "cluster-12" not in on_volume(stack, 'ls "${PGDATA%/*}"'):
        pytest.skip("NOT TESTED: POSTGRES_IMAGE is the recommended version already")


def test_commands_of_the_page_go_back_to_the_old_data(stack: Stack) -> None:
    skip_without_old_data(stack)
    before, settings = counts(stack), stack.directory / ".env"
    stop, put_back = [command.text for command in commands(REPO / "docs/upgrade.md") if command.program == "docker"]
    stack.call("sh", "-ec", stop)
    stack.call("sh", "-ec", put_back)
    settings.write_text(settings.read_text().replace("POSTGRES_IMAGE=postgres:18", "#POSTGRES_IMAGE="))
    stack.up()
    assert stack.sql("SHOW server_version_num")[0][0] < "180000"
    assert counts(stack) == before
    assert make(stack, "upgrade").returncode == 0
    assert stack.sql("SHOW server_version_num")[0][0] >= "180000"


def test_upgrade_killed_between_its_renames_is_finished_by_up(stack: Stack) -> None:
    before = counts(stack)
    stack.compose("down")
    on_volume(stack, 'mv "$PGDATA" "$PGDATA.upgrading"')
    stack.compose("up", "--detach", "db")
    stack.wait_healthy("db")
    assert counts(stack) == before


def test_upgrade_killed_after_its_renames_is_checked_by_the_next_one(stack: Stack) -> None:
    skip_without_old_data(stack)
    stack.compose("down")
    done = make(stack, "upgrade")
    assert "predictions repeated bit for bit" in done.stderr
    assert "`docker compose up` starts the services" in done.stderr
    stack.up()


def test_remove_old_removes_the_kept_data_only(stack: Stack) -> None:
    make(stack, "remove-old")
    assert "cluster\n" in on_volume(stack, 'ls "${PGDATA%/*}"')
    assert "cluster-" not in on_volume(stack, 'ls "${PGDATA%/*}"')


def test_second_upgrade_has_nothing_to_do(stack: Stack) -> None:
    before = stack.contents()
    assert "PostgreSQL 18 already; there is nothing to do" in make(stack, "upgrade").stderr
    assert stack.contents() == before


def test_the_stack_predicts_further_inputs_afterwards(stack: Stack) -> None:
    stack.up()
    before = stack.number("SELECT count(*) FROM ml.prediction")
    stack.copies += 100  # numbers that no chunk has
    stack.wait_done(before + stack.copy_inputs(1))
    assert stack.sql("SELECT * FROM ml.integrity") == []
