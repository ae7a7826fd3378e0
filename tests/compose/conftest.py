"""The stack of containers on a real engine: one clone and one project for all tests, which run in the order below.

`make test-compose` runs them. KEEP_STACK=1 keeps the stack running at the end (its clone is in /tmp). Screenshots and
logs are in .local/compose.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose.stack import Stack, clone

REPO = Path(__file__).resolve().parents[2]
OUTPUT = REPO / ".local/compose"
ORDER = (
    "config",
    "pgdata",
    "gallery",
    "start",
    "modes",
    "exchange",
    "images",
    "networks",
    "secrets",
    "pgadmin",
    "pages",
    "faults",
    "stop",
    "keep",
    "backup",
    "cold",
)
MEASURED = pytest.StashKey[list[str]]()
# A shell starts a command in the background with Ctrl-C ignored, and a program inherits that; here it must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compose: tests the stack of containers with a real engine")
    config.stash[MEASURED] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in ours:
        item.add_marker("compose")
        if not os.environ.get("TEST_COMPOSE"):
            item.add_marker(pytest.mark.skip(reason="the stack of containers is tested by `make test-compose`"))
    place = {f"test_{name}": at for at, name in enumerate(ORDER)}
    items.sort(key=lambda item: place[item.path.stem] if item in ours else -1)  # a stable sort


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[MEASURED]:
        terminalreporter.section("measured")
        for line in config.stash[MEASURED]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> list[str]:
    """Return a list of lines, which are printed at the end of the run."""
    return pytestconfig.stash[MEASURED]


@pytest.fixture(scope="session")
def engine() -> None:
    """End the run when there is no engine."""
    if shutil.which("docker") is None:
        pytest.exit("NOT TESTED: there is no `docker` here; the stack needs Docker with compose v2", returncode=1)
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.exit(f"NOT TESTED: `{' '.join(command)}` failed: {done.stderr.strip()[-300:]}", returncode=1)


@pytest.fixture(scope="session")
def bare(engine: None) -> Iterator[Stack]:
    """Yield a fresh clone with its .env, before the first `up`; remove everything at the end."""
    directory = Path(tempfile.mkdtemp(prefix="compose-"))
    clone(REPO, directory)
    stack = Stack(directory, f"ml{uuid.uuid4().hex[:8]}")
    stack.write_env(PGADMIN_PASSWORD=secrets.token_urlsafe(9), PYPREDICT_LEASE_SECONDS="5")
    yield stack
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "logs.txt").write_text(stack.compose("logs", "--no-color", "--timestamps", check=False).stdout)
    if not os.environ.get("KEEP_STACK"):
        stack.remove()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def stack(bare: Stack, measured: list[str]) -> Stack:
    """Return the stack after its first `up`, which built the images, trained and predicted."""
    started = bare.seconds()
    bare.first_up = bare.watch_up(seconds=1800)
    measured.append(
        f"first `docker compose up` with its builds, until all is healthy: {bare.seconds() - started:.0f} s"
    )
    return bare


@pytest.fixture(scope="session")
def other(bare: Stack) -> Iterator[Stack]:
    """Yield a second project on the same clone, with images and without running containers."""
    project = Stack(bare.directory, f"{bare.project}x")
    project.compose("build", "--quiet", timeout=1500)
    yield project
    project.remove()


@pytest.fixture(scope="session")
def shots() -> Path:
    """Return an empty directory for the screenshots."""
    directory = OUTPUT / "screenshots"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
