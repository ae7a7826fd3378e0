"""The stack as a user sees it: `docker compose` in a clone, and psql as the owner inside the db container."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Done = subprocess.CompletedProcess[str]

DAEMONS = ("db", "pypredict", "pgadmin")
ONE_SHOTS = ("secrets", "pgdata", "migrate", "pyml")
SERVICES = (*ONE_SHOTS, *DAEMONS, "ready")
KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_BUILDKIT",
    "BASE_IMAGE",
    "POSTGRES_IMAGE",
    "PGADMIN_IMAGE",
)

COPY_CHUNKS = """
BEGIN;
CREATE TEMP TABLE copies ON COMMIT DROP AS
SELECT n, nextval(pg_get_serial_sequence('ml.chunk', 'chunk_id')) AS chunk_id FROM generate_series({first}, {last}) n;
INSERT INTO ml.chunk (chunk_id, dataset, prep_sha256, first_row, n_inputs, dtype, shape, classes, source,
                      content_sha256)
SELECT n.chunk_id, c.dataset, c.prep_sha256, n.n, c.n_inputs, c.dtype, c.shape, c.classes, 'copy ' || n.n,
       sha256(convert_to('copy ' || n.n, 'UTF8'))
FROM copies n, (SELECT * FROM ml.chunk ORDER BY chunk_id LIMIT 1) c;
INSERT INTO ml.input (chunk_id, sample_no, label_no, payload)
SELECT n.chunk_id, i.sample_no, i.label_no, i.payload
FROM copies n, ml.input i WHERE i.chunk_id = (SELECT min(chunk_id) FROM ml.chunk);
COMMIT;
"""


class Stack:
    """One compose project in one clone."""

    def __init__(self, directory: Path, project: str) -> None:
        self.directory = directory
        self.project = project
        self.copies = 0  # chunks that copy_inputs made
        self.first_up = ""  # what the first `docker compose up` printed
        self.seconds = time.monotonic
        self.environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        self.environment["COMPOSE_PROJECT_NAME"] = project

    def write_env(self, **values: str) -> None:
        """Write .env from .env.example, as a user does, with a free port for pgAdmin."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            values = {"PGADMIN_PORT": str(free.getsockname()[1]), **values}
        text = (self.directory / ".env.example").read_text()
        for name, value in values.items():
            lines = [line for line in text.splitlines() if line.lstrip("#").startswith(f"{name}=")]
            assert len(lines) == 1, f".env.example should show {name} once: {lines}"
            text = text.replace(lines[0], f"{name}={value}")
        (self.directory / ".env").write_text(text)
        self.values = values

    def compose(self, *arguments: str, check: bool = True, timeout: float = 300, **environment: str) -> Done:
        """Run `docker compose` in the clone."""
        return self.call("docker", "compose", *arguments, check=check, timeout=timeout, **environment)

    def call(
        self, *command: str, check: bool = True, timeout: float = 300, stdin: str = "", **environment: str
    ) -> Done:
        """Run a program in the clone, with the variables of this project only."""
        variables = {**self.environment, **environment}
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=variables,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        return done

    def up(self, *arguments: str, **environment: str) -> None:
        """Start everything; wait until the one-shot services have ended with 0 and the daemons are healthy."""
        self.compose("up", "--detach", *arguments, check=True, timeout=900, **environment)
        for service in ONE_SHOTS:
            code = self.call("docker", "wait", self.container(service), timeout=600).stdout.strip()
            assert code == "0", f"{service} ended with {code}: {self.compose('logs', service).stdout[-2000:]}"
        self.wait_healthy(*DAEMONS)

    @contextmanager
    def background(
        self, *command: str, **environment: str
    ) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
        """Start a program in the clone; yield it and a function that returns its output so far. Kill it at the end."""
        with tempfile.TemporaryFile("w+") as log:
            running = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

            def output() -> str:
                return os.pread(log.fileno(), 1 << 30, 0).decode(errors="replace")

            try:
                yield running, output
            finally:
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()

    def watch_up(self, seconds: float = 900, **environment: str) -> str:
        """Run `docker compose up` in the foreground until `ready` has printed its line and all is healthy.

        Return the output. The command is then killed; the containers stay as they are.
        """
        with self.background("docker", "compose", "up", **environment) as (running, output):

            def is_over() -> bool:
                _, trained, after = output().rpartition("pyml-1 exited with code")
                return running.poll() is not None or (trained != "" and "\nready-1 " in after)

            self.until(is_over, "the start is over", seconds)
            assert running.poll() is None, f"`up` ended by itself:\n{output()[-3000:]}"
            self.wait_healthy(*DAEMONS)
            return output()

    def remove(self) -> None:
        """Remove everything of the project."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
        self.remove_images()

    def remove_images(self) -> None:
        """Remove the project's images, and those that lost their name to a newer one."""
        self.call("docker", "image", "rm", f"{self.project}-pyml", f"{self.project}-pypredict", check=False)
        replaced = f"label=com.docker.compose.project={self.project}"
        self.call("docker", "image", "prune", "--force", "--filter", replaced)

    def image_ids(self) -> dict[str, set[str]]:
        """Map the names of the project's images to their ids; one that lost its name to a newer one is `<none>`."""
        label = f"label=com.docker.compose.project={self.project}"
        shown = ("--no-trunc", "--filter", label, "--format", "{{.Repository}} {{.ID}}")
        found: dict[str, set[str]] = {}
        for line in self.call("docker", "image", "ls", *shown).stdout.splitlines():
            name, number = line.split()
            found.setdefault(name.removeprefix(f"{self.project}-"), set()).add(number)
        return found

    def all_containers(self) -> dict[str, str]:
        """Map each service to the id of its only container."""
        return {service: self.container(service) for service in SERVICES}

    def container(self, service: str) -> str:
        """Return the id of the only container of a service."""
        (found,) = self.containers(service)
        return found

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers, also stopped ones, without those of `run`."""
        filters = ("project=" + self.project, "service=" + service, "oneoff=False")
        labels = [part for label in filters for part in ("--filter", f"label=com.docker.compose.{label}")]
        return self.call("docker", "ps", "--all", "--quiet", "--no-trunc", *labels).stdout.split()

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the engine knows about a container."""
        known: dict[str, Any]
        (known,) = json.loads(self.call("docker", "inspect", name).stdout)
        return known

    def run_in(self, service: str, *command: str, check: bool = True, timeout: float = 60) -> Done:
        """Run a command in the running container of a service."""
        return self.compose("exec", "--no-TTY", service, *command, check=check, timeout=timeout)

    def sql(self, query: str) -> list[list[str]]:
        """Run SQL as the owner, on the socket inside the db container; return rows of text."""
        psql = ["psql", "-qAtX", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-U", "ml_owner", "-d", "ml", "-f", "-"]
        done = self.call("docker", "exec", "--interactive", self.container("db"), *psql, stdin=query)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def pgadmin_settings(self, query: str) -> list[list[str]]:
        """Run SQL on pgAdmin's own store, an SQLite file; return rows of text."""
        script = (
            "import json, sqlite3, sys; store = sqlite3.connect('file:/var/lib/pgadmin/pgadmin4.db?mode=ro', uri=True);"
            "print(json.dumps([[str(cell) for cell in row] for row in store.execute(sys.argv[1])]))"
        )
        rows: list[list[str]] = json.loads(self.run_in("pgadmin", "/venv/bin/python3", "-c", script, query).stdout)
        return rows

    def number(self, query: str) -> int:
        """Run SQL that returns one number."""
        return int(self.sql(query)[0][0])

    def contents(self) -> dict[str, str]:
        """Map each table to a digest of all its rows and of the transactions that wrote them."""
        tables = [row[0] for row in self.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'ml' ORDER BY 1")]
        digest = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t.xmin || t::text, 0)), 0) FROM ml.{} t"
        return {table: self.sql(digest.format(table))[0][0] for table in tables}

    def copy_inputs(self, chunks: int) -> int:
        """Add copies of the first chunk, which no model has predicted; return the number of inputs."""
        self.sql(COPY_CHUNKS.format(first=self.copies + 1, last=self.copies + chunks))
        self.copies += chunks
        return chunks * self.number("SELECT n_inputs FROM ml.chunk ORDER BY chunk_id LIMIT 1")

    def open_jobs(self) -> int:
        """Count the jobs that are not done."""
        return self.number("SELECT count(*) FROM ml.job WHERE state <> 'done'")

    def wait_predicted(self, models: int = 1, seconds: float = 180) -> None:
        """Wait until this many models have done all their jobs."""
        done = "SELECT count(*) FROM ml.progress WHERE jobs > 0 AND inputs = inputs_done"
        self.until(lambda: self.number(done) >= models and self.open_jobs() == 0, "all is predicted", seconds)

    def wait_done(self, inputs: int, seconds: float = 180) -> None:
        """Wait until this many inputs are predicted by the model that serves."""
        done = "SELECT coalesce(sum(inputs_done), 0) FROM ml.progress WHERE state = 'serving'"
        self.until(lambda: self.number(done) >= inputs and self.open_jobs() == 0, f"{inputs} are predicted", seconds)

    def wait_healthy(self, *services: str, seconds: float = 180) -> None:
        """Wait until every container of the services is healthy."""

        def healthy() -> bool:
            found = [self.inspect(name)["State"] for service in services for name in self.containers(service)]
            return all(state["Status"] == "running" and state["Health"]["Status"] == "healthy" for state in found)

        self.until(healthy, f"{', '.join(services)} are healthy", seconds)

    def until(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Check a condition until it holds; an error in the check counts as no."""
        deadline = time.monotonic() + seconds
        trouble: object = "the condition did not hold"
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except (AssertionError, IndexError, KeyError, ValueError) as error:
                trouble = error
            time.sleep(0.25)
        logs = self.compose("logs", "--no-color", "--tail", "15", check=False).stdout
        raise AssertionError(f"waited {seconds} s until {what}: {trouble}\n{logs}")


def clone(source: Path, target: Path) -> None:
    """Copy all files that git does not ignore, as if they were committed and cloned."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).is_file():  # without files that the working tree has deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
