"""The two ways of running, as backup.py and upgrade.py see them: the embedded server, and the stack of containers.

Both give commands. A command reaches the database, the models volume or the records of W&B on this machine, or by
`docker compose`. What the commands do is the same in both ways.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import embedded
from postgres_cluster import OWNER, data_directory, find_postmaster
from postgres_programs import find_binaries, last_lines

REPO = Path(__file__).resolve().parent.parent
FILE_STREAM = REPO / "db" / "file_stream.py"
MODELS = ("current", "bundles")  # in this order: a pointer is younger than its bundle
RECORDS = ("wandb", "data/artifacts/staging")
LOGIN = ("--username", OWNER, "--no-password")

DATABASE_SETTING = re.compile(
    r"ALTER DATABASE ml SET |ALTER ROLE .* IN DATABASE ml SET |(GRANT|REVOKE) .* ON DATABASE ml "
)


class BackupError(Exception):
    """An error with one sentence: what happened, what is needed, what to do."""


@dataclass(frozen=True)
class Command:
    """A command line, with variables of its environment."""

    words: Sequence[str | Path]
    variables: Mapping[str, str] = field(default_factory=dict)

    def start(
        self, stdin: int | IO[bytes] | None, stdout: int | IO[bytes] | None, stderr: int | IO[bytes] = subprocess.PIPE
    ) -> "subprocess.Popen[bytes]":
        """Start it; its messages can be read from stderr, or go to a file."""
        environment = os.environ | self.variables
        return subprocess.Popen(
            [str(word) for word in self.words],
            cwd=REPO,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )


def run(command: Command, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> str:
    """Run a command and return its output as text, unless it goes to `stdout`. Raises BackupError."""
    with command.start(stdin or subprocess.DEVNULL, stdout or subprocess.PIPE) as process:
        said, problem = process.communicate()
    _check_end(command, process.returncode, problem)
    return os.fsdecode(said) if said else ""  # a name of a file may be of any bytes


def ask(command: Command, text: str) -> str:
    """Run a command with a text as its input, and return its output. Raises BackupError."""
    with command.start(subprocess.PIPE, subprocess.PIPE) as process:
        said, problem = process.communicate(text.encode())
    _check_end(command, process.returncode, problem)
    return said.decode()


def pipe(source: Command, target: Command) -> None:
    """Run two commands, the output of the first being the input of the second.

    Raises BackupError with the message of each that fails, the first one's first: it may be the cause of the other's.
    """
    with tempfile.TemporaryFile() as messages:  # not a pipe: that would be full while the target is read
        with (
            source.start(subprocess.DEVNULL, subprocess.PIPE, messages) as first,
            target.start(first.stdout, None) as second,
        ):
            assert first.stdout is not None  # noqa: S101 - for mypy
            first.stdout.close()  # so that the first ends when the second does
            _, problem = second.communicate()
        messages.seek(0)
        said = messages.read()
    ends = ((source, first.returncode, said), (target, second.returncode, problem))
    failures = [_failure(command, code, text) for command, code, text in ends if code]
    if failures:
        raise BackupError("; ".join(failures))


def show(command: Command) -> None:
    """Run a command that prints to the terminal. Raises BackupError when it fails; it has said why."""
    words = [str(word) for word in command.words]
    done = subprocess.run(words, cwd=REPO, env=os.environ | command.variables, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BackupError(f"`{_name(command)}` ended with {done.returncode}; its message is above")


def _check_end(command: Command, code: int, problem: bytes) -> None:
    if code:
        raise BackupError(_failure(command, code, problem))


def _failure(command: Command, code: int, problem: bytes) -> str:
    said = last_lines(problem.decode(errors="replace")) or f"it ended with {code} and without a message"
    return f"`{_name(command)}` failed: {said}"


def _name(command: Command) -> str:
    return " ".join(
        Path(word).name if isinstance(word, Path) else word for word in command.words if len(str(word)) < 80
    )


@dataclass(frozen=True)
class Database:
    """A server that runs. programs: what stands before the name of one of PostgreSQL's programs."""

    programs: Path | tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    def program(self, name: str, *arguments: str) -> Command:
        """Give the command for one of PostgreSQL's programs, as the owner of the database `ml`."""
        start = [self.programs / name] if isinstance(self.programs, Path) else [*self.programs, name]
        return Command([*start, *arguments], self.variables)

    def sql(self, query: str) -> list[list[str]]:
        """Run SQL in one transaction, and return rows of text; \\gexec works."""
        options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--field-separator=\t")
        stop = ("--set=ON_ERROR_STOP=1", "--single-transaction", "--dbname=ml", "--file=-")
        said = ask(self.program("psql", *LOGIN, *options, *stop), query)
        return [line.split("\t") for line in said.splitlines()]

    def major(self) -> int:
        """Return the major version of the server."""
        return int(self.sql("SHOW server_version_num")[0][0]) // 10000

    def program_major(self, name: str) -> int:
        """Return the major version of pg_dump or pg_restore."""
        said = run(self.program(name, "--version"))
        found = re.search(r"\(PostgreSQL\) (\d+)", said)
        if not found:
            raise BackupError(f"{name} --version prints {said!r}, and a version of PostgreSQL is needed")
        return int(found[1])

    def dump(self) -> Command:
        """Give the command that writes one snapshot of the database.

        Without the rights of PostgreSQL's own functions: other versions have other ones, and `migrate` sets the rights.
        """
        return self.program("pg_dump", *LOGIN, "--format=custom", "--exclude-schema=pg_catalog", "ml")

    def restore_dump(self) -> Command:
        """Give the command that reads a dump, in one transaction."""
        return self.program("pg_restore", *LOGIN, "--dbname=ml", "--exit-on-error", "--single-transaction")

    def dump_roles(self, *options: str) -> Command:
        """Give the command that writes the roles as SQL."""
        return self.program("pg_dumpall", *LOGIN, "--database=ml", "--roles-only", *options)

    def dump_settings(self) -> str:
        """Return, as SQL, the rights on the database itself and its settings, also those of one role in it.

        A dump has them as part of CREATE DATABASE, and the target's database exists already.
        """
        words = ("--create", "--schema-only", "--exclude-schema=*", "ml")
        lines = run(self.program("pg_dump", *LOGIN, *words)).splitlines()
        return "".join(f"{line}\n" for line in lines if DATABASE_SETTING.match(line))

    def create_roles(self, roles: str) -> None:
        """Run the SQL of dump_roles, except for the creation of roles that exist already."""
        known = {f"CREATE ROLE {name};" for (name,) in self.sql("SELECT quote_ident(rolname) FROM pg_roles")}
        # A line that starts with a backslash is a command to psql, which an older psql does not know.
        lines = [line for line in roles.splitlines() if line not in known and not line.startswith("\\")]
        self.sql("\n".join(lines))

    def is_empty(self) -> bool:
        """Return whether no table of anybody is in the database."""
        query = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        return self.sql(query) == [["0"]]


@dataclass(frozen=True)
class Installation:
    """A database that runs, and the commands beside it.

    models, records: the roots of the volume and of the records. files: what stands before the arguments of
    file_stream.py. migrate, check: the commands of pypredict. emptied_by: how a person makes it empty.
    """

    database: Database
    models: str
    records: str
    files: Command
    migrate: Command
    check: Command
    emptied_by: str

    def stream(self, action: str, root: str, *folders: str) -> Command:
        """Give the command that lists, sends or receives files below a root."""
        return Command([*self.files.words, action, root, *folders], self.files.variables)


@contextmanager
def open_embedded(state: Path, bin: Path | None, *, make: bool) -> Iterator[Installation]:
    """Use the embedded server that runs, or start it and stop it again. make: make a database if there is none.

    A server that runs is used without the lock, beside the command that holds it.
    """
    data = data_directory(state)
    if not make and not data.exists():
        raise BackupError(f"there is no database in {state} yet; `make run` makes one")
    found = find_postmaster(data)
    if found and found.ready and not make:
        yield embedded_installation(embedded.start(state, bin=bin))
        return
    with embedded.lock(state):
        server = embedded.start(state, bin=bin)
        try:
            yield embedded_installation(server)
        finally:
            if not (state / "keep").exists():
                embedded.stop(state)


def embedded_installation(server: embedded.Server) -> Installation:
    """Use an embedded server that runs."""
    pypredict = Path(sys.executable).with_name("pypredict")
    return Installation(
        database=Database(find_binaries(None), server.environment(OWNER)),  # the newest programs read every server
        models=str(REPO / (os.environ.get("PYPREDICT_MODELS") or "models")),
        records=str(REPO / (os.environ.get("PYML_RECORD") or ".local/wandb")),
        files=Command([sys.executable, FILE_STREAM]),
        migrate=Command([pypredict, "migrate", "--passfile", server.passfile], server.environment(OWNER)),
        check=Command([pypredict, "check", "--replay", "all"], server.environment()),
        emptied_by="make clean",
    )


def compose(*words: str, **variables: str) -> Command:
    """Give a command of `docker compose`."""
    return Command(["docker", "compose", *words], variables)


def open_stack(*, make: bool) -> Installation:
    """Use the stack of this directory. make: start its database, which makes an empty one if there is none."""
    if make:
        show(compose("up", "--detach", "--wait", "db"))
    once = ("run", "--rm", "--no-TTY")
    return Installation(
        database=Database(("docker", "compose", "exec", "--no-TTY", "db")),
        models="/models",
        records="/home/app/wandb",
        files=compose(*once, "--no-deps", "--entrypoint", "python", "pyml", "-c", FILE_STREAM.read_text()),
        migrate=compose(*once, "migrate"),
        check=compose(*once, "--no-deps", "pypredict", "check", "--replay", "all"),
        emptied_by="docker compose down --volumes",
    )
