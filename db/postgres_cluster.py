"""The data directory of the embedded PostgreSQL, and the server that runs on it.

The port and the settings are options on the server's command line. PostgreSQL writes them to `data/postmaster.opts`.
The server runs in its own session, so Ctrl-C in the terminal does not reach it.
"""

import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from postgres_programs import (
    WAIT_SECONDS,
    EmbeddedError,
    explain_errors,
    find_binaries,
    last_lines,
    major_version,
    run_program,
    runnable_binaries,
    server_account,
)

HOST, OWNER = "127.0.0.1", "ml_owner"
PREFIX = "ml-postgres-"  # of root's directories under /var/tmp
CLEAN = "run `make clean` for an empty database"
UPGRADING = "data.upgrading"  # the new data directory of `make upgrade`, until it takes the place of the old one


class Postmaster(NamedTuple):
    """A running server, described by its pid file."""

    pid: int
    port: int
    ready: bool


def data_directory(state: Path) -> Path:
    """Return the data directory of a state directory."""
    return (state / "cluster").resolve() / "data"


def make_cluster_directory(state: Path) -> Path:
    """Make the parent of the data directory if missing (for root: where `nobody` can read it); return the latter."""
    cluster, account = state / "cluster", server_account()
    if cluster.is_symlink() and not cluster.exists():
        raise EmbeddedError(f"{cluster.readlink()}, the data directory of {state}, is gone: {CLEAN}")
    if account and not cluster.exists():
        base = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
        base.chmod(0o711)  # only root can write here; `nobody` can only open its directory cluster/
        (base / "cluster").mkdir(mode=0o700)
        os.chown(base / "cluster", account.pw_uid, account.pw_gid)
        cluster.symlink_to(base / "cluster")
    cluster.mkdir(mode=0o700, exist_ok=True)
    return data_directory(state)


def finish_upgrade(data: Path) -> None:
    """Rename the new data directory if an upgrade was killed after it renamed the old one: it is complete then."""
    if not data.exists() and data.with_name(UPGRADING).exists():
        data.with_name(UPGRADING).rename(data)


def check_data(data: Path, bin: Path) -> None:
    """Refuse a data directory of another user or of another major version."""
    account = server_account()
    owner, needed = data.stat().st_uid, account.pw_uid if account else os.geteuid()
    if owner != needed:
        raise EmbeddedError(f"{data} belongs to user {owner}, not {needed}: run as the user who made it, or {CLEAN}")
    with explain_errors(CLEAN):
        made_by, major = (data / "PG_VERSION").read_text().strip(), major_version(bin)
    if made_by != major:
        raise EmbeddedError(
            f"PostgreSQL {made_by} made {data}, but {bin} is {major}: run `make upgrade`, "
            f"give version {made_by} with --bin, or {CLEAN}"
        )


def start_server(data: Path, bin: Path, password: str, settings: Mapping[str, str]) -> int:
    """Start the server, on another port if its last port is taken; return the port."""
    run, server_log = runnable_binaries(bin, data.parent), data.with_name("server.log")
    if not data.exists():
        _init_database(data, run, password, sync=settings.get("fsync") != "off")
    # Remove the pid file of a dead server: another process may have its pid now, and PostgreSQL would believe the file.
    # This is safe: if a backend of the old server is still alive, its shared memory prevents a second start.
    (data / "postmaster.pid").unlink(missing_ok=True)
    _, port = last_start(data)
    for _ in range(3):
        port = _free_port(port)
        ours = {"listen_addresses": HOST, **settings, "port": str(port), "unix_socket_directories": ""}
        options = shlex.join(f"--{name}={value}" for name, value in ours.items())
        wait = ("-w", "-t", str(WAIT_SECONDS))
        done = run_program(data.parent, run / "pg_ctl", "start", "-D", data, "-l", server_log, "-o", options, *wait)
        if done.returncode == 0:
            return port
        said = last_lines(server_log.read_text(errors="replace") if server_log.exists() else done.stderr)
        if "could not create any TCP/IP sockets" not in said:  # else another process took the port after our look
            break
    raise EmbeddedError(f"the server in {data.parent} does not start; its log ends: {said}")


def stop_server(data: Path) -> bool:
    """Stop the server of this data directory (fast shutdown) and return whether it ran."""
    if not find_postmaster(data):
        return False
    run, _ = last_start(data)
    if not (run / "pg_ctl").exists():  # the virtual environment was made again
        run = find_binaries(None)
    done = run_program(data.parent, run / "pg_ctl", "stop", "-D", data, "-m", "fast", "-w", "-t", str(WAIT_SECONDS))
    if left := find_postmaster(data):
        raise EmbeddedError(f"the server in {data.parent} (pid {left.pid}) does not stop: {last_lines(done.stderr)}")
    return True


def _init_database(data: Path, run: Path, password: str, sync: bool) -> None:
    """Make the data directory under another name and rename it, so that `data` is always complete."""
    for leftover in data.parent.glob("data.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside, account = data.with_name(f"data.new-{secrets.token_hex(4)}"), server_account()
    options = ["-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--data-checksums"]  # -A: TCP and socket
    with tempfile.NamedTemporaryFile("w", dir=data.parent.parent, prefix=".new-") as file:  # 0600
        file.write(f"{password}\n")
        file.flush()
        if account:
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
        options += ["-U", OWNER, f"--pwfile={file.name}"]
        if not sync:
            options.append("--no-sync")
        done = run_program(data.parent, run / "initdb", "-D", aside, *options)
    if done.returncode:
        raise EmbeddedError(f"initdb failed in {data.parent} (exit code {done.returncode}): {last_lines(done.stderr)}")
    aside.rename(data)


def last_start(data: Path) -> tuple[Path, int]:
    """Return the binaries and the port of the last start, from PostgreSQL's own note; port 0 before the first start."""
    with suppress(FileNotFoundError):
        noted = (data / "postmaster.opts").read_text()
        if ports := re.findall(r'"--port=(\d+)"', noted):
            return Path(noted.split(' "', 1)[0]).parent, int(ports[-1])
    return Path(), 0


def find_postmaster(data: Path) -> Postmaster | None:
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
