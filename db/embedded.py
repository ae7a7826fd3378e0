#!/usr/bin/env python3
"""Run an embedded PostgreSQL for this checkout: TCP on 127.0.0.1, scram passwords, no Unix socket, no trust login.

    embedded.py exec -- CMD [ARG...]   start or reuse the server, run CMD with PG* set, stop the server again
    embedded.py start | stop | status | destroy

The state directory (0700) holds:
    pgpass      (0600) a line with the password of each role
    lock        one command at a time holds it; `exec` holds it until CMD ends
    keep        made by `start`: `exec` does not stop the server
    cluster/    with `data` and `server.log`

PostgreSQL does not run as root. For root, its programs run as `nobody`, `cluster` is a link to a new directory under
/var/tmp, and the binaries are copied there if `nobody` cannot read them. The mode and owner of existing directories do
not change.

After a killed run, the server may still run. The next command finds it by its pid file and command line, and uses it.
The server runs in its own session: Ctrl-C in the terminal stops CMD, not the server; then this program shuts the server
down cleanly. This script and its two modules also run outside the virtual environment.
"""

import argparse
import fcntl
import logging
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from postgres_cluster import (
    CLEAN,
    HOST,
    OWNER,
    PREFIX,
    check_data,
    data_directory,
    find_postmaster,
    finish_upgrade,
    make_cluster_directory,
    start_server,
    stop_server,
)
from postgres_programs import (
    EmbeddedError,
    explain_errors,
    find_binaries,
    last_lines,
    major_version,
)

DATABASE = "ml"
ROLES = (OWNER, "pypredict", "reader")  # initdb makes only the owner; the migration makes the others
DEFAULT_STATE = Path(__file__).resolve().parent.parent / ".local" / "postgres"
MADE = ("cluster", "keep", "pgpass", "lock")  # our files in the state directory; destroy removes only these
# These variables are removed, because they select another server or another login.
FOREIGN = "DATABASE_URL PGPASSWORD PGHOSTADDR PGSERVICE PGSERVICEFILE PGOPTIONS PGSSLMODE PGREQUIREAUTH".split()

log = logging.getLogger("embedded")


@dataclass(frozen=True)
class Server:
    """A running server and its address."""

    host: str
    port: int
    passfile: Path
    data: Path
    bin: Path  # as the caller gave it; psql and pg_dump are also there, if the package has them

    def environment(self, user: str = "pypredict", database: str = DATABASE) -> dict[str, str]:
        """Return the environment variables that make every libpq program connect as `user`."""
        address = {"PGHOST": self.host, "PGPORT": str(self.port), "PGDATABASE": database}
        return address | {"PGUSER": user, "PGPASSFILE": str(self.passfile)}

    def url(self, user: str = OWNER, database: str = DATABASE) -> str:
        """Return a URL that contains the password: for tests, never for a log."""
        return f"postgresql://{user}:{passwords(self.passfile)[user]}@{self.host}:{self.port}/{database}"


def start(state: Path, *, bin: Path | None = None, settings: Mapping[str, str] | None = None) -> Server:
    """Start the server of this state directory, or use the running one; make the cluster and database `ml` if missing.

    settings: PostgreSQL's own (fsync="off"); a server that already runs keeps its settings. The caller makes sure that
    no other process works on `state` (the commands hold `lock`).
    """
    state, bin, settings, began = state.resolve(), find_binaries(bin), settings or {}, time.monotonic()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = make_cluster_directory(state)
    finish_upgrade(data)
    if data.exists():
        check_data(data, bin)
    elif not (state / "pgpass").exists():
        _make_passwords(state / "pgpass")
    password = passwords(state / "pgpass")[OWNER]

    found = find_postmaster(data)
    if found and not found.ready:  # a run was killed while the server started or stopped
        stop(state)
        found = None
    port = found.port if found else start_server(data, bin, password, settings)
    server = Server(HOST, port, state / "pgpass", data, bin)
    _create_database(server, password)
    how = "was already running" if found else f"started in {time.monotonic() - began:.1f} s"
    log.info("PostgreSQL %s on %s:%d %s", major_version(bin), HOST, server.port, how)
    return server


def stop(state: Path) -> bool:
    """Stop the server (fast shutdown) and return whether it ran; also remove the `keep` file of `start`."""
    (state / "keep").unlink(missing_ok=True)
    if not stop_server(data_directory(state)):
        return False
    log.info("PostgreSQL stopped")
    return True


def destroy(state: Path) -> None:
    """Stop the server and remove all files that this module made, also under /var/tmp; keep other files."""
    stop(state)
    base = data_directory(state).parent.parent
    if (state / "cluster").is_symlink() and base.name.startswith(PREFIX) and base.exists():
        shutil.rmtree(base)
    for path in [state / name for name in MADE] + list(state.glob(".new-*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # the directory is missing or holds other files
        state.rmdir()


def status(state: Path) -> tuple[bool, str]:
    """Return whether the server runs, and a line that describes it."""
    data = data_directory(state)
    if found := find_postmaster(data):
        kept = "until `stop`" if (state / "keep").exists() else "for one run"
        return True, f"running {kept} on {HOST}:{found.port}, pid {found.pid}, data in {data}"
    return False, f"stopped, data in {data}" if data.exists() else "stopped, no data yet"


@contextmanager
def lock(state: Path) -> Iterator[None]:
    """Lock the state directory for one command; the kernel releases the lock when the process ends in any way."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("a") as file:  # close-on-exec: neither CMD nor the server inherits it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file.fileno()), (state / "lock").stat())  # `destroy` removes the file
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise EmbeddedError(
                f"another run uses the database in {state}: wait for its end, or stop it, and try again"
            )
        yield


def execute(state: Path, bin: Path | None, command: Sequence[str]) -> int:
    """Run `command` while the server runs; return its exit code (128 + N if signal N ended it, as in a shell)."""
    child: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        if child and number != signal.SIGINT:  # a terminal sends Ctrl-C to the whole group itself
            child.send_signal(number)

    for expected in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(expected) != signal.SIG_IGN:  # nohup
            signal.signal(expected, forward)
    if not find_postmaster(
        data_directory(state)
    ):  # the server ended after `start`, for example because the machine stopped
        (state / "keep").unlink(missing_ok=True)
    try:
        server = start(state, bin=bin)
        if received:
            return 128 + received[0]
        with explain_errors("a program that can run is needed after `--`"):
            child = subprocess.Popen(command, env=os.environ | server.environment())
        for number in received:  # signals that arrived before the child started
            child.send_signal(number)
        code = child.wait()
        return code if code >= 0 else 128 - code
    finally:
        if not (state / "keep").exists():
            stop(state)


def _make_passwords(passfile: Path) -> None:
    with tempfile.NamedTemporaryFile("w", dir=passfile.parent, prefix=".new-", delete=False) as file:  # 0600
        file.writelines(f"{HOST}:*:*:{role}:{secrets.token_urlsafe(24)}\n" for role in ROLES)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, passfile)


def passwords(passfile: Path) -> dict[str, str]:
    """Read the password of each role."""
    with explain_errors(f"{passfile} is not readable, {CLEAN}"):
        fields = [line.split(":") for line in passfile.read_text().splitlines()]
        found = {role: password for _, _, _, role, password in fields}
        if set(ROLES) <= set(found):
            return found
        raise ValueError(f"passwords of {', '.join(ROLES)} are needed, not of {', '.join(found) or 'nobody'}")


def _create_database(server: Server, password: str) -> None:
    """Log in as the owner, which proves that this is our server; create database `ml` if it is missing."""
    try:
        import psycopg2  # stop, status and destroy do not need it

        address = f"host={HOST} hostaddr={HOST} port={server.port} dbname=postgres sslmode=disable connect_timeout=10"
        with closing(psycopg2.connect(address, user=OWNER, password=password)) as connection:
            connection.autocommit = True  # CREATE DATABASE refuses a transaction
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if not cursor.fetchone():
                    cursor.execute(f"CREATE DATABASE {DATABASE}")
    except ImportError as error:
        raise EmbeddedError(f"{sys.executable} has no psycopg2: use .venv/bin/python after `make install`") from error
    except psycopg2.Error as error:
        raise EmbeddedError(f"no login as {OWNER} on port {server.port} ({last_lines(str(error))}): {CLEAN}") from error


def _act(action: str, state: Path, bin: Path | None, command: Sequence[str]) -> int:
    if action == "status":
        running, line = status(state)
        print(line)  # noqa: T201 - the command's own output
        return 0 if running else 3
    if action in ("stop", "destroy") and not state.exists():
        return 0
    with lock(state):
        if action == "exec":
            return execute(state, bin, command)
        if action == "start":
            server = start(state, bin=bin)
            (state / "keep").touch()
            psql = server.bin / "psql" if (server.bin / "psql").exists() else Path("psql")
            exports = [f"export {name}={shlex.quote(value)}" for name, value in server.environment().items()]
            print(*exports, f"# for example: {shlex.quote(str(psql))} -U {OWNER}", sep="\n")  # noqa: T201
        else:
            {"stop": stop, "destroy": destroy}[action](state)
    return 0


def main() -> int:
    """Run one command and return its exit code."""
    words, command = sys.argv[1:], []
    if "--" in words:
        words, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(usage="%(prog)s [--state DIR] [--bin DIR] exec -- CMD [ARG...] | start | ...")
    parser.description = (__doc__ or "").splitlines()[0]
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--bin", type=Path, metavar="DIR", help="use postgres, initdb and pg_ctl of this directory")
    actions = ("exec", "start", "stop", "status", "destroy")
    parser.add_argument("action", choices=actions, help="status exits with 0 if the server runs, and with 3 if not")
    options = parser.parse_args(words)
    if (options.action == "exec") != bool(command):
        parser.error("`exec --` needs a command after it; the other actions take none")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in FOREIGN:
        os.environ.pop(name, None)
    try:
        return _act(options.action, options.state.resolve(), options.bin, command)
    except EmbeddedError as error:
        log.error("embedded: %s", error)
    except OSError as error:
        log.error("embedded: %s: this user needs the right to write in %s; or %s", error, options.state, CLEAN)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 1


if __name__ == "__main__":
    sys.exit(main())
