"""pgAdmin in a real browser, with more than 1e5 inputs in the database; screenshots go to .local/compose."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from compose.browser import CHROMIUM, PgAdmin, open_browser
from compose.stack import Stack

VIEWS = ("Servers", "ML pipeline", "Databases", "ml", "Schemas", "ml", "Views")


@pytest.fixture(scope="module")
def pgadmin(stack: Stack, shots: Path) -> Iterator[PgAdmin]:
    """Give a browser that is logged in, on a database that holds more than 1e5 inputs."""
    if not CHROMIUM.exists():
        pytest.fail(f"NOT TESTED: {CHROMIUM} is missing; apt-get install chromium")
    missing = 100_001 - stack.number("SELECT count(*) FROM ml.input")
    if missing > 0:
        before = stack.number("SELECT sum(inputs_done) FROM ml.progress WHERE state = 'serving'")
        stack.wait_done(before + stack.copy_inputs(missing // 300))
    with open_browser(shots) as window:
        window.log_in(
            f"http://127.0.0.1:{stack.values['PGADMIN_PORT']}/", "admin@example.com", stack.values["PGADMIN_PASSWORD"]
        )
        yield window


@pytest.fixture(scope="module")
def views(pgadmin: PgAdmin) -> list[str]:
    """Open the server without any prompt, down to the views."""
    found = pgadmin.unfold(*VIEWS)
    pgadmin.shoot("2-tree")
    return found


def test_the_server_opens_without_a_password_prompt(pgadmin: PgAdmin, views: list[str]) -> None:
    assert "accuracy" in views
    assert pgadmin.problems() == ""


def test_the_tree_offers_the_views_and_no_tables(pgadmin: PgAdmin, views: list[str]) -> None:
    assert pgadmin.unfold(*VIEWS[:-1]) == ["Views"]


@pytest.fixture(scope="module")
def grids(pgadmin: PgAdmin, views: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Open View Data, All Rows on everything that the tree offers: columns and first row by view."""
    return {view: pgadmin.view_data(view) for view in views}


def test_view_data_works_on_everything_the_tree_offers_and_the_worker_survives(
    stack: Stack, grids: dict[str, tuple[list[str], list[str]]], figures: list[str]
) -> None:
    inputs = stack.number("SELECT count(*) FROM ml.input")
    assert inputs > 100_000
    assert all(columns for columns, _ in grids.values())
    assert [view for view, (_, row) in grids.items() if not row] == ["integrity"]
    known = stack.inspect(stack.container("pgadmin"))
    assert (known["RestartCount"], known["State"]["OOMKilled"]) == (0, False)
    log = stack.compose("logs", "--no-color", "--since", known["State"]["StartedAt"], "pgadmin").stdout
    assert log.count("Booting worker") == 1
    assert "SIGKILL" not in log
    memory = stack.call(
        "docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", stack.container("pgadmin")
    ).stdout
    figures.append(f"pgAdmin after View Data on {len(grids)} views of {inputs} inputs: {memory.strip()}")


def test_the_accuracy_is_the_one_in_the_database(stack: Stack, grids: dict[str, tuple[list[str], list[str]]]) -> None:
    shown = dict(zip(*grids["accuracy"], strict=True))
    query = f"SELECT accuracy FROM ml.accuracy WHERE held_out AND model_id = {shown['model_id']}"
    assert [[shown["accuracy"]]] == stack.sql(query)
    assert shown["agrees"] == "true"


def test_the_inputs_are_shown_without_their_bytes(grids: dict[str, tuple[list[str], list[str]]]) -> None:
    shown = dict(zip(*grids["inputs"], strict=True))
    assert "payload" not in shown
    assert (shown["dtype"], shown["shape"]) == ("uint8", "{8,8,1}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ml.prediction SET score = 0",
        "SET transaction_read_only = off; DELETE FROM ml.input",
        "SELECT payload FROM ml.input",
    ],
)
def test_the_login_is_refused(stack: Stack, pgadmin: PgAdmin, views: list[str], statement: str) -> None:
    before = (
        stack.number("SELECT count(*) FROM ml.input"),
        stack.number("SELECT count(*) FROM ml.prediction WHERE score = 0"),
    )
    message = pgadmin.run("accuracy", statement)
    assert "permission denied" in message or "read-only transaction" in message, message
    after = (
        stack.number("SELECT count(*) FROM ml.input"),
        stack.number("SELECT count(*) FROM ml.prediction WHERE score = 0"),
    )
    assert after == before
