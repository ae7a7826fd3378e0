"""Fresh clones without images, several times: `make test-compose-cold` runs only this file, since it takes long.

An engine with the containerd image store sometimes fails when one tag is built several times at once.
"""

import secrets
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose.conftest import REPO
from compose.stack import Stack, clone


@pytest.fixture
def cold(engine: None) -> Iterator[Stack]:
    """Yield a fresh clone as a project without images, volumes and containers."""
    directory = Path(tempfile.mkdtemp(prefix="cold-"))
    clone(REPO, directory)
    stack = Stack(directory, f"cold{uuid.uuid4().hex[:8]}")
    stack.write_env(PGADMIN_PASSWORD=secrets.token_urlsafe(9))
    yield stack
    stack.remove()
    shutil.rmtree(directory)


def assert_one_id_each(stack: Stack, *names: str) -> None:
    assert {name: len(ids) for name, ids in stack.image_ids().items()} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("attempt", range(10))
def test_build_gives_each_image_one_id(cold: Stack, attempt: int) -> None:
    cold.compose("build", timeout=1500)
    assert_one_id_each(cold, "pyml", "pypredict")


@pytest.mark.parametrize("attempt", range(5))
def test_first_up_ends_with_predictions(cold: Stack, attempt: int, measured: list[str]) -> None:
    started = cold.seconds()
    output = cold.watch_up(seconds=1800)
    measured.append(f"`docker compose up` of a fresh clone, {attempt + 1}: {cold.seconds() - started:.0f} s")
    assert "docker compose exec pypredict pypredict report" in output.splitlines()[-1]
    report = cold.run_in("pypredict", "pypredict", "report").stdout
    assert " = " in report
    assert "DIFFERS" not in report
    assert_one_id_each(cold, "pyml", "pypredict")
    before = cold.all_containers()
    cold.up()
    assert cold.all_containers() == before


@pytest.mark.parametrize(
    "command",
    [
        "up --detach db",
        "up --detach --build",
        "up --detach --scale pypredict=2",
        "run --rm --no-TTY pypredict ping",
        "run --rm --no-TTY pyml schema",
    ],
)
def test_first_command_builds_the_images_that_it_needs(cold: Stack, command: str) -> None:
    cold.compose(*command.split(), timeout=1500)
    assert {len(ids) for ids in cold.image_ids().values()} == {1}
