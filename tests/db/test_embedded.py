"""The embedded PostgreSQL, with its real programs. A fixture stops and removes every server that a test starts.

Longer than 300 lines, because it tests one script, and all tests share its fixtures.
"""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

import embedded
import postgres_cluster
import postgres_programs
from postgres_programs import EmbeddedError

FAST = {"fsync": "off", "shared_buffers": "16MB"}
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
BIN = postgres_programs.find_binaries(None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One database for the tests that do not need a new one."""
    state = tmp_path_factory.mktemp("embedded") / "state"
    try:
        embedded.start(state, settings=FAST)
        yield state
    finally:
        embedded.destroy(state)


@pytest.fixture
def state(made: Path) -> Iterator[Path]:
    """The shared database, stopped before and after each test."""
    embedded.stop(made)
    yield made
    embedded.stop(made)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """A state directory that does not exist yet; it is removed after the test."""
    yield tmp_path / "state"
    embedded.destroy(tmp_path / "state")


def cli_words(state: Path, *words: str | Path) -> list[str | Path]:
    return [sys.executable, embedded.__file__, "--state", state, *words]


def cli(state: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        cli_words(state, *words), capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )


@contextmanager
def running_exec(state: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Run `exec` in its own process group. The command prints "ready" and ends at the end of its standard input."""
    words = cli_words(state, "exec", "--", *command)
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process


UNTIL_EOF = ("sh", "-c", "echo ready; exec cat")


def is_running(state: Path) -> bool:
    return embedded.status(state)[0]


def server_pid(state: Path) -> int:
    found = postgres_cluster.find_postmaster(postgres_cluster.data_directory(state))
    assert found
    return found.pid


def server_log(state: Path) -> str:
    return (state / "cluster" / "server.log").read_text()


def query(server: embedded.Server, sql: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(server.url())) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def kinds(paths: set[Path]) -> dict[Path, tuple[int, int, int]]:
    return {p: (p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_gid) for p in paths}


def copy_binaries(target: Path) -> Path:
    """Copy the installed server with the directories of its wheel."""
    package = BIN.parent.parent
    tree = shutil.copytree(
        BIN.parent, target / package.name / BIN.parent.name, ignore=shutil.ignore_patterns("include")
    )
    if (libs := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libs, target / libs.name)
    return tree / "bin"


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """A directory that every user can read, with a copy of the server."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        copy_binaries(Path(name))
        yield Path(name)


def with_initdb(server: Path, real: Path, script: str) -> Path:
    """Make a directory of binaries: initdb is a shell script, the others are links to `real`."""
    (server / "bin").mkdir(parents=True)
    for name in ("postgres", "pg_ctl"):
        (server / "bin" / name).symlink_to(real / name)
    (server / "bin" / "initdb").write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{script}\n')
    (server / "bin" / "initdb").chmod(0o755)
    return server / "bin"


# Logins


def test_start_makes_the_owner_the_database_and_utf8(state: Path) -> None:
    server = embedded.start(state, settings=FAST)
    sql = "SELECT current_user::text, current_database()::text, current_setting('server_encoding')"
    assert query(server, sql) == [("ml_owner", "ml", "UTF8")]


def test_only_scram_logins_over_tcp_are_allowed(state: Path) -> None:
    server = embedded.start(state, settings=FAST)
    assert query(server, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [("scram-sha-256",)]
    sql = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
    assert query(server, sql) == [("127.0.0.1", "")]


def test_pages_have_checksums(state: Path) -> None:
    assert query(embedded.start(state, settings=FAST), "SELECT current_setting('data_checksums')") == [("on",)]


@pytest.mark.parametrize(
    ("password", "answer"), [("wrong", "password authentication failed"), ("", "no password supplied")]
)
def test_a_login_without_the_right_password_is_refused(state: Path, password: str, answer: str) -> None:
    server = embedded.start(state, settings=FAST)
    with pytest.raises(psycopg2.OperationalError, match=answer):
        psycopg2.connect(host=server.host, port=server.port, user="ml_owner", password=password, passfile=os.devnull)


def test_psycopg2_logs_in_with_the_environment(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in embedded.start(state, settings=FAST).environment("ml_owner").items():
        monkeypatch.setenv(name, value)
    with closing(psycopg2.connect("")) as connection:
        assert (connection.info.user, connection.info.dbname) == ("ml_owner", "ml")


def test_the_passfile_is_private_and_does_not_change(state: Path) -> None:
    server = embedded.start(state, settings=FAST)
    before = server.passfile.read_text()
    assert stat.S_IMODE(server.passfile.stat().st_mode) == 0o600
    assert [line.rsplit(":", 1)[0] for line in before.splitlines()] == [
        "127.0.0.1:*:*:ml_owner", "127.0.0.1:*:*:pypredict", "127.0.0.1:*:*:reader",
    ]  # fmt: skip
    embedded.stop(state)
    assert embedded.start(state, settings=FAST).passfile.read_text() == before


def test_the_state_directory_is_private(state: Path) -> None:
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


# exec, start, stop, status


def test_exec_returns_the_exit_code_and_stops_the_server(state: Path) -> None:
    done = cli(state, "exec", "--", "sh", "-c", 'echo "$PGHOST $PGDATABASE $PGUSER"; exit 5')
    assert (done.returncode, done.stdout) == (5, "127.0.0.1 ml pypredict\n")
    assert not is_running(state)
    assert "database system is shut down" in server_log(state).splitlines()[-1]


def test_exec_removes_variables_of_other_servers(state: Path) -> None:
    done = cli(state, "exec", "--", "env", PGPASSWORD="x", PGSERVICE="x", DATABASE_URL="postgresql://elsewhere")
    assert done.returncode == 0
    assert not {line.split("=")[0] for line in done.stdout.splitlines()} & set(embedded.FOREIGN)


def test_a_killed_command_gives_the_exit_code_of_a_shell(state: Path) -> None:
    assert cli(state, "exec", "--", "sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_exec_does_not_stop_a_server_of_start(state: Path) -> None:
    assert cli(state, "start").returncode == 0
    pid = server_pid(state)
    assert cli(state, "exec", "--", "true").returncode == 0
    assert server_pid(state) == pid
    assert cli(state, "stop").returncode == 0
    assert not is_running(state)


def test_exec_stops_its_own_server_despite_an_old_keep(state: Path) -> None:
    embedded.start(state, settings=FAST)
    embedded.stop(state)
    (state / "keep").touch()
    assert cli(state, "exec", "--", "true").returncode == 0
    assert not is_running(state)


def test_start_prints_exports_for_a_shell(state: Path) -> None:
    exports = cli(state, "start").stdout
    found = subprocess.run(["sh", "-c", f"{exports}\nenv"], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert {"PGHOST=127.0.0.1", "PGDATABASE=ml", "PGUSER=pypredict", f"PGPASSFILE={state}/pgpass"} <= set(found)


def test_status_has_an_exit_code_for_each_state(state: Path) -> None:
    assert cli(state, "status").returncode == 3
    embedded.start(state, settings=FAST)
    assert cli(state, "status").returncode == 0


def test_a_second_exec_is_refused_in_one_sentence(state: Path) -> None:
    with running_exec(state, *UNTIL_EOF):
        refused = cli(state, "exec", "--", "echo", "never")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "another run uses the database" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_exec_uses_the_server_of_a_killed_exec(state: Path) -> None:
    with running_exec(state, *UNTIL_EOF) as process:
        process.kill()
        process.wait()
        pid = server_pid(state)
        done = cli(state, "exec", "--", "head", "-n1", postgres_cluster.data_directory(state) / "postmaster.pid")
    assert done.stdout == f"{pid}\n"
    assert not is_running(state)


def test_ctrl_c_ends_the_command_then_stops_the_server(state: Path) -> None:
    with running_exec(state, *UNTIL_EOF) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
    assert "database system is shut down" in server_log(state).splitlines()[-1]


def test_sigterm_reaches_the_command_then_stops_the_server(state: Path) -> None:
    script = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('ready', flush=True); sys.stdin.read()"
    )
    with running_exec(state, sys.executable, "-c", script) as process:
        process.terminate()
        assert process.wait() == 7
    assert "database system is shut down" in server_log(state).splitlines()[-1]


# Files of an earlier run or of another program


@pytest.mark.parametrize("alive", [False, True], ids=["dead", "now another program"])
def test_an_old_pid_file_is_removed(state: Path, alive: bool) -> None:
    data = embedded.start(state, settings=FAST).data
    lines = (data / "postmaster.pid").read_text().splitlines()
    embedded.stop(state)
    account = (
        postgres_programs.server_account()
    )  # the same user as PostgreSQL's, because it checks whether it may signal the process
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=account.pw_uid if account else None) as other:
        if not alive:
            other.communicate()
        (data / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        assert not is_running(state)
        server = embedded.start(state, settings=FAST)
        assert query(server, "SELECT 1") == [(1,)]


def test_the_port_is_used_again(state: Path) -> None:
    port = embedded.start(state, settings=FAST).port
    embedded.stop(state)
    assert embedded.start(state, settings=FAST).port == port


def test_a_port_that_another_process_takes_for_a_moment_is_tried_again(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_port = postgres_cluster._free_port
    with closing(socket.create_server((postgres_cluster.HOST, 0))) as other:
        looks: list[int] = []

        def look(wanted: int) -> int:
            looks.append(wanted)
            if len(looks) == 1:
                return int(other.getsockname()[1])
            other.close()
            return free_port(wanted)

        monkeypatch.setattr(postgres_cluster, "_free_port", look)
        server = embedded.start(state, settings=FAST)
    assert looks[1:] == [server.port]


def test_a_taken_port_is_replaced_for_later_starts_too(state: Path) -> None:
    first = embedded.start(state, settings=FAST).port
    embedded.stop(state)
    with socket.create_server(("127.0.0.1", first)):
        second = embedded.start(state, settings=FAST)
        assert second.port != first
        assert query(second, "SELECT 1") == [(1,)]
        embedded.stop(state)
    assert embedded.start(state, settings=FAST).port == second.port


def test_an_incomplete_data_directory_is_replaced(fresh: Path, tmp_path: Path) -> None:
    broken = with_initdb(tmp_path / "broken", BIN, 'mkdir -p "$2/base"; echo 18 > "$2/PG_VERSION"; kill -9 $$')
    with pytest.raises(EmbeddedError, match="initdb"):
        embedded.start(fresh, bin=broken)
    assert list((fresh / "cluster").glob("data.new-*/PG_VERSION"))

    assert query(embedded.start(fresh, settings=FAST), "SELECT 1") == [(1,)]
    assert not list((fresh / "cluster").glob("data.new-*"))


def test_ctrl_c_during_initdb_leaves_a_complete_directory(fresh: Path, public: Path) -> None:
    reached, go = public / "reached", public / "go"
    for fifo in (reached, go):
        os.mkfifo(fifo)
        fifo.chmod(0o666)
    real = public / BIN.relative_to(BIN.parents[2])
    slow = with_initdb(public / "slow", real, f'echo > {reached}; read -r line < {go}; exec {real}/initdb "$@"')
    words = cli_words(fresh, "--bin", slow, "exec", "--", "echo", "never")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        reached.read_text()
        os.killpg(process.pid, signal.SIGINT)
        with go.open("r+b", buffering=0) as pipe:  # read and write: opens even if no process waits for it
            pipe.write(b"\n")
            assert (process.communicate()[0], process.returncode) == ("", 128 + signal.SIGINT)
    assert not is_running(fresh)
    assert query(embedded.start(fresh, settings=FAST), "SELECT 1") == [(1,)]


def test_a_data_directory_of_another_major_version_is_refused(state: Path) -> None:
    version = postgres_cluster.data_directory(state) / "PG_VERSION"
    true_version = version.read_text()
    version.write_text("11\n")
    try:
        refused = cli(state, "exec", "--", "true")
    finally:
        version.write_text(true_version)
    assert refused.returncode == 1
    assert refused.stderr.startswith("embedded: PostgreSQL 11 made ")
    assert "`make clean`" in refused.stderr


# Errors


def test_missing_binaries_are_named_in_one_sentence(fresh: Path, tmp_path: Path) -> None:
    refused = cli(fresh, "--bin", tmp_path, "exec", "--", "true")
    assert (refused.returncode, refused.stderr) == (
        1, f"embedded: {tmp_path} has no postgres: give the bin directory of a PostgreSQL server with --bin\n",
    )  # fmt: skip


def test_a_broken_passfile_is_named_in_one_sentence(state: Path) -> None:
    text = (state / "pgpass").read_text()
    (state / "pgpass").write_text("spoiled")
    try:
        refused = cli(state, "exec", "--", "true")
    finally:
        (state / "pgpass").write_text(text)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "pgpass is not readable" in refused.stderr


def test_a_missing_command_is_named_and_the_server_stops(state: Path) -> None:
    refused = cli(state, "exec", "--", "no-such-program")
    assert refused.returncode == 1
    assert "no-such-program" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not is_running(state)


def test_a_failed_start_shows_the_end_of_the_log(state: Path) -> None:
    with pytest.raises(EmbeddedError, match=r'log ends: .*"shared_buffers": "nonsense"'):
        embedded.start(state, settings={"shared_buffers": "nonsense"})


# Users and directories


def test_destroy_removes_only_its_own_files(fresh: Path) -> None:
    data = embedded.start(fresh, settings=FAST).data
    (fresh / "note").write_text("mine")
    assert cli(fresh, "destroy").returncode == 0
    assert [path.name for path in fresh.iterdir()] == ["note"]
    assert not data.parent.parent.exists() or data.parent.parent == fresh
    (fresh / "note").unlink()
    assert cli(fresh, "destroy").returncode == 0
    assert not fresh.exists()


@AS_ROOT
def test_root_changes_no_mode_of_existing_directories(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    bin = copy_binaries(home / "checkout" / "venv")  # neither state nor binaries can be reached by nobody
    state = home / "checkout" / ".local" / "postgres"
    before = kinds({*home.parents, home, *home.rglob("*"), Path("/var/tmp")})
    try:
        server = embedded.start(state, bin=bin, settings=FAST)
        assert query(server, "SELECT 1") == [(1,)]
        assert pwd.getpwuid(server.data.stat().st_uid).pw_name == "nobody"
        assert stat.S_IMODE(server.data.parent.stat().st_mode) == 0o700
        assert server.data.is_relative_to("/var/tmp")
    finally:
        embedded.destroy(state)
    assert not server.data.parent.parent.exists()
    assert kinds(set(before)) == before


@AS_ROOT
def test_missing_data_are_not_replaced(fresh: Path) -> None:
    server = embedded.start(fresh, settings=FAST)
    embedded.stop(fresh)
    shutil.rmtree(server.data.parent.parent)
    with pytest.raises(EmbeddedError, match="is gone"):
        embedded.start(fresh)


def as_nobody(action: Callable[[], int]) -> int:
    """Run `action` in a forked child as user nobody, who may not be able to start this Python; return its exit code."""
    if (pid := os.fork()) == 0:
        code = 99
        try:
            account = pwd.getpwnam("nobody")
            os.chdir("/")
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            code = action()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@AS_ROOT
def test_an_ordinary_user_needs_only_the_state_directory(public: Path) -> None:
    checkout, bin = public / "checkout", public / BIN.relative_to(BIN.parents[2])
    checkout.mkdir()
    shutil.chown(checkout, "nobody")
    state = checkout / "state"

    def use() -> int:
        embedded.start(state, bin=bin, settings=FAST)
        return embedded.execute(state, bin, ["sh", "-c", f"test -f {state}/cluster/data/postmaster.pid && exit 6"])

    def remove() -> int:
        embedded.destroy(state)
        return 0 if not state.exists() else 1

    try:
        assert as_nobody(use) == 6
        assert not is_running(state)
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert not (state / "cluster").is_symlink()
        assert pwd.getpwuid((state / "cluster" / "data").stat().st_uid).pw_name == "nobody"
        assert as_nobody(remove) == 0
    finally:
        embedded.destroy(state)
