"""Move the database to a newer major version of PostgreSQL by dump and restore, for both ways of running.

The old server runs read-only and sends its dump to the new server, whose data are beside the old ones. When both have
equal numbers of rows, two renames exchange them:

    data -> data-12              in the stack: cluster -> cluster-12; kept until `remove-old`
    data.upgrading -> data       in the stack: cluster.upgrading -> cluster

A run that is killed before the renames leaves the old data in their place, and the next one begins again. A run that is
killed between them leaves no `data`; the next run or start does the second rename (`finish_upgrade`, db/pgdata.sh).
In the stack, a file on the volume says that the two servers may run; db/pgdata.sh refuses to start a third one then.

Longer than 300 lines, so that both ways of running can be compared in one place.
"""

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import embedded
from installation import (
    LOGIN,
    REPO,
    BackupError,
    Command,
    Database,
    Installation,
    compose,
    embedded_installation,
    open_stack,
    pipe,
    run,
    show,
)
from postgres_cluster import OWNER, UPGRADING, data_directory, finish_upgrade, last_start, start_server, stop_server
from postgres_programs import EmbeddedError, find_binaries, major_version

IMAGE = "postgres:18"  # the recommended version of the stack; the embedded server takes that of its package
READ_ONLY = "default_transaction_read_only"
CLIENTS = ("pypredict", "pgadmin", "ready")  # services of the stack that use the database
RUNNING = '"${PGDATA%/*}/upgrade-running"'  # on the volume while the servers may run; it has their containers' names
START_SECONDS = 120
COUNTS = r"""
    SELECT format('SELECT %L, count(*) FROM %I.%I', schemaname || '.' || tablename, schemaname, tablename)
    FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY schemaname, tablename
    \gexec
    """

KEPT = re.compile(r"(?:data|cluster)-([1-9]\d?)", re.ASCII)

log = logging.getLogger("backup")


class Way(Protocol):
    """What the upgrade needs from a way of running."""

    def versions(self) -> tuple[int, int]:
        """Return the major versions of the data and of the new server; finish a killed upgrade first."""

    def kept(self) -> list[str]:
        """List the kept data of older versions."""

    def servers(self) -> AbstractContextManager[tuple[Database, Database]]:
        """Run the old server, read-only, and an empty new one; both are stopped at the end of the block."""

    def exchange(self, old: int) -> None:
        """Rename the old data and then the new ones."""

    def settle(self) -> None:
        """Let later starts use the new version."""

    def opened(self) -> AbstractContextManager[Installation]:
        """Run the new server in its place."""

    def remove_old(self) -> None:
        """Remove the kept data of older versions."""


def upgrade(way: Way) -> None:
    """Move the data to the new version, unless they have it, and repeat all predictions. Raises BackupError.

    Data that an upgrade kept say that it may have been killed after it moved the data; so the rest is done again.
    """
    old, new = way.versions()
    if old > new:
        raise BackupError(f"the database is one of PostgreSQL {old}, newer than {new}; data cannot go back")
    kept = way.kept()
    if old == new and not kept:
        way.settle()
        log.info("the database is one of PostgreSQL %d already; there is nothing to do", new)
        return
    if old < new:
        if kept:
            raise BackupError(f"data of an earlier upgrade are still there ({kept[0]}); run `make remove-old` first")
        log.info("moving the database from PostgreSQL %d to %d", old, new)
        with way.servers() as (source, target):
            copy_database(source, target)
        way.exchange(old)
    way.settle()
    with way.opened() as installation:
        show(installation.migrate)
        show(installation.check)
    log.info("the database is one of PostgreSQL %d now; `make remove-old` removes %s", new, ", ".join(way.kept()))


def copy_database(source: Database, target: Database) -> None:
    """Copy roles, with their passwords, and the database. Raises BackupError when the numbers of rows differ."""
    target.create_roles(run(source.dump_roles()) + source.dump_settings())
    pipe(source.dump(), target.restore_dump())
    if source.sql(COUNTS) != target.sql(COUNTS):
        raise BackupError("the copy has other numbers of rows than the database; nothing was changed, try again")


def wait_ready(database: Database) -> None:
    """Wait until the server answers on TCP; while it makes its data, it answers on the socket only."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            run(database.program("pg_isready", "--quiet", "--host=127.0.0.1"))
        except BackupError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def is_kept(name: str, version: str) -> bool:
    """Return whether an upgrade has made this directory: data-12 of version 12, and not data-12-my-copy.

    version: the content of its PG_VERSION; empty: it cannot be read.
    """
    found = KEPT.fullmatch(name)
    return found is not None and version in ("", found[1])


def remove_old(way: Way) -> None:
    """Remove the data that upgrades kept."""
    kept = way.kept()
    way.remove_old()
    log.info("removed: %s", ", ".join(kept) or "nothing was kept")


@dataclass(frozen=True)
class EmbeddedUpgrade:
    """The embedded server. bin: the old programs; None: those of the last start. The caller holds the lock."""

    state: Path
    bin: Path | None

    @property
    def data(self) -> Path:
        """The data directory."""
        return data_directory(self.state)

    def versions(self) -> tuple[int, int]:
        """See Way."""
        finish_upgrade(self.data)
        if not self.data.exists():
            raise BackupError(f"there is no database in {self.state} yet; `make run` makes one")
        return int((self.data / "PG_VERSION").read_text()), int(major_version(find_binaries(None)))

    def kept(self) -> list[str]:
        """See Way."""
        folders = [path for path in self.data.parent.glob("data-*") if path.is_dir()]
        return sorted(str(path) for path in folders if is_kept(path.name, self._version(path)))

    def _version(self, folder: Path) -> str:
        try:
            return (folder / "PG_VERSION").read_text(errors="replace").strip()
        except OSError:
            return ""

    @contextmanager
    def servers(self) -> Iterator[tuple[Database, Database]]:
        """See Way."""
        new, aside = find_binaries(None), self.data.with_name(UPGRADING)
        embedded.stop(self.state)
        stop_server(aside)  # of a run that was killed
        shutil.rmtree(aside, ignore_errors=True)
        try:
            server = embedded.start(self.state, bin=self._old_programs(), settings={READ_ONLY: "on"})
            port = start_server(aside, new, embedded.passwords(server.passfile)[OWNER], {})
            variables = server.environment(OWNER)
            target = Database(new, variables | {"PGPORT": str(port)})
            run(target.program("psql", *LOGIN, "--dbname=postgres", "--quiet", "--command=CREATE DATABASE ml"))
            yield Database(new, variables), target
        finally:
            stop_server(aside)
            embedded.stop(self.state)

    def _old_programs(self) -> Path:
        old = (self.data / "PG_VERSION").read_text().strip()
        try:
            programs = find_binaries(self.bin or last_start(self.data)[0])
            if major_version(programs) == old:
                return programs
        except EmbeddedError:
            pass
        raise BackupError(f"the programs of PostgreSQL {old} are needed; give their directory: POSTGRES_BIN=DIR")

    def exchange(self, old: int) -> None:
        """See Way. The new server takes the port of the old one."""
        aside = self.data.with_name(UPGRADING)
        shutil.copyfile(self.data / "postmaster.opts", aside / "postmaster.opts")
        self.data.rename(self.data.with_name(f"data-{old}"))
        finish_upgrade(self.data)

    def settle(self) -> None:
        """See Way: the package's programs are always used."""

    @contextmanager
    def opened(self) -> Iterator[Installation]:
        """See Way."""
        try:
            yield embedded_installation(embedded.start(self.state))
        finally:
            embedded.stop(self.state)

    def remove_old(self) -> None:
        """See Way."""
        for path in self.kept():
            shutil.rmtree(path)


class StackUpgrade:
    """The stack of containers."""

    def __init__(self) -> None:
        known = json.loads(run(compose("config", "--format", "json")))
        self.project: str = known["name"]
        self.image: str = known["services"]["db"]["image"]
        self.ran = run(compose("ps", "--services", "--status", "running")).split()

    def versions(self) -> tuple[int, int]:
        """See Way."""
        said = self._shell(
            '[ ! -e "${PGDATA%/*}/PG_VERSION" ] && [ -e "$PGDATA/PG_VERSION" ] || sh /pgdata.sh; '
            'cat "$PGDATA/PG_VERSION" 2>/dev/null || echo 0; echo "$PG_MAJOR"',
            IMAGE,
        )
        old, new = map(int, said.split())
        if not old:
            raise BackupError("the volume pgdata holds no database; `docker compose up` makes one")
        return old, new

    def kept(self) -> list[str]:
        """See Way."""
        script = """
            cd "${PGDATA%/*}"
            for folder in cluster-*/; do echo "${folder%/}/$(cat "$folder/PG_VERSION" 2>/dev/null)"; done"""
        found = [line.rpartition("/") for line in self._shell(script, self.image).splitlines()]
        return [name for name, _, version in found if is_kept(name, version)]

    @contextmanager
    def servers(self) -> Iterator[tuple[Database, Database]]:
        """See Way. The servers run in containers that nobody can reach by name."""
        if not self._image_fits():
            raise BackupError(f"{self.image} did not make the volume pgdata; set POSTGRES_IMAGE to the image that did")
        names = [f"{self.project}-upgrade-{which}" for which in ("old", "new")]
        remove = Command(["docker", "rm", "--force", *names])
        run(remove)  # of a run that was killed
        aside = ("--env", "PGDATA=/var/lib/postgresql/cluster.upgrading")
        try:
            run(compose("stop", *CLIENTS, "db"))
            self._shell(f'rm -rf "$PGDATA.upgrading"; echo {" ".join(names)} > {RUNNING}; sync', IMAGE)
            with (
                self._server(names[0], self.image, (), ("-c", f"{READ_ONLY}=on")) as source,
                self._server(names[1], IMAGE, aside, ()) as target,
            ):
                yield source, target
        except BaseException:
            run(remove)
            self._shell(f"rm -f {RUNNING}", IMAGE)
            before = [name for name in ("db", *CLIENTS) if name in self.ran]
            if before:
                show(compose("up", "--detach", *before))
            raise

    @contextmanager
    def _server(self, name: str, image: str, options: tuple[str, ...], settings: tuple[str, ...]) -> Iterator[Database]:
        words = ("run", "--detach", "--no-deps", "--name", name, *options, "db", *settings)
        try:
            run(compose(*words, POSTGRES_IMAGE=image))
            database = Database(("docker", "exec", "--interactive", name))
            wait_ready(database)
            yield database
            run(Command(["docker", "stop", "--time", "60", name]))
        finally:
            run(Command(["docker", "rm", "--force", name]))

    def exchange(self, old: int) -> None:
        """See Way. Both servers have ended."""
        self._shell(
            f'rm -f {RUNNING} && mv -T "$PGDATA" "$PGDATA-{old}" && mv "$PGDATA.upgrading" "$PGDATA" && sync', IMAGE
        )

    def settle(self) -> None:
        """See Way: write POSTGRES_IMAGE into .env."""
        if self._image_fits():
            return
        path, line = REPO / ".env", f"POSTGRES_IMAGE={IMAGE}"
        text = path.read_text() if path.exists() else ""
        if re.search(r"^#?POSTGRES_IMAGE=.*$", text, re.MULTILINE):
            text = re.sub(r"^#?POSTGRES_IMAGE=.*$", line, text, flags=re.MULTILINE)
        else:
            text = f"{text.rstrip()}\n{line}\n".lstrip()
        with tempfile.NamedTemporaryFile("w", dir=REPO, prefix=".env.", delete=False) as file:  # 0600
            file.write(text)
        os.replace(file.name, path)
        if os.environ.get("POSTGRES_IMAGE"):
            log.warning("POSTGRES_IMAGE of your shell hides that of .env: set it to %s, or unset it", IMAGE)
        os.environ["POSTGRES_IMAGE"] = IMAGE

    @contextmanager
    def opened(self) -> Iterator[Installation]:
        """See Way. At the end, the services run that ran before."""
        show(compose("up", "--detach", "--wait", "db"))
        yield open_stack(make=False)
        clients = [name for name in CLIENTS if name in self.ran]
        if clients:
            show(compose("up", "--detach", *clients))
            return
        if "db" not in self.ran:
            run(compose("stop", "db"))
        log.info("no service ran that uses the database; `docker compose up` starts the services")

    def remove_old(self) -> None:
        """See Way."""
        self._shell(f'cd "${{PGDATA%/*}}" && rm -rf {" ".join(self.kept())}', self.image)

    def _image_fits(self) -> bool:
        """Return whether the image of .env has the version of the data."""
        return self._shell('[ "$(cat "$PGDATA/PG_VERSION")" = "$PG_MAJOR" ] || echo no', self.image) == ""

    def _shell(self, script: str, image: str) -> str:
        """Run a script on the volume, in a container of this image."""
        words = ("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "sh", "pgdata", "-ec", script)
        return run(compose(*words, POSTGRES_IMAGE=image)).strip()
