"""pgAdmin in a real browser, with more than 1e5 inputs in the database; screenshots go to .local/compose."""

import http.cookiejar
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose.browser import CHROMIUM, PgAdmin, open_browser
from compose.stack import Stack

EMAIL = "admin@example.com"
ATTEMPTS = 20  # docker-compose.yml
PREFERENCES = """
    SELECT m.name || ':' || c.name || ':' || p.name, u.value
    FROM user_preferences u JOIN preferences p ON p.id = u.pid JOIN preference_category c ON c.id = p.cid
    JOIN module_preference m ON m.id = c.mid"""
VIEWS = ("Servers", "ML pipeline", "Databases", "ml", "Schemas", "ml", "Views")


@pytest.fixture(scope="module")
def pgadmin(stack: Stack, shots: Path) -> Iterator[PgAdmin]:
    """Yield a browser that is logged in, on a database with more than 1e5 inputs."""
    if not CHROMIUM.exists():
        pytest.fail(f"NOT TESTED: {CHROMIUM} is missing; apt-get install chromium")
    missing = 100_001 - stack.number("SELECT count(*) FROM ml.input")
    if missing > 0:
        before = stack.number("SELECT sum(inputs_done) FROM ml.progress WHERE state = 'serving'")
        stack.wait_done(before + stack.copy_inputs(missing // 300))
    with open_browser(shots) as window:
        window.log_in(f"{address(stack)}/", EMAIL, stack.values["PGADMIN_PASSWORD"])
        yield window


def address(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.values['PGADMIN_PORT']}"


def test_every_preference_is_stored(stack: Stack) -> None:
    # pgAdmin's loader ends at the first value that it does not accept; the start goes on without the later values.
    path = stack.directory / "db/pgadmin/preferences.json"
    wanted = json.loads(path.read_text())["preferences"]
    stored = {name: value.lower() for name, value in stack.pgadmin_settings(PREFERENCES)}
    assert {name: stored.get(name) for name in wanted} == wanted


@pytest.fixture(scope="module")
def views(pgadmin: PgAdmin) -> list[str]:
    """Open the tree down to the views; return their names."""
    found = pgadmin.unfold(*VIEWS)
    pgadmin.shoot("2-tree")
    return found


def test_server_opens_without_a_password_prompt(pgadmin: PgAdmin, views: list[str]) -> None:
    assert "accuracy" in views
    assert pgadmin.problems() == ""


def test_tree_shows_views_and_no_tables(pgadmin: PgAdmin, views: list[str]) -> None:
    assert pgadmin.unfold(*VIEWS[:-1]) == ["Views"]


@pytest.fixture(scope="module")
def grids(pgadmin: PgAdmin, views: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Open View Data, All Rows on every view; map each to its columns and its first row."""
    return {view: pgadmin.view_data(view) for view in views}


def test_view_data_works_on_every_view(
    stack: Stack, grids: dict[str, tuple[list[str], list[str]]], measured: list[str]
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
    measured.append(f"pgAdmin after View Data on {len(grids)} views of {inputs} inputs: {memory.strip()}")


def test_view_data_of_many_inputs_ends_at_the_row_limit(pgadmin: PgAdmin, views: list[str]) -> None:
    pgadmin.view_data("inputs")
    assert pgadmin.total_rows == 1000


def test_accuracy_is_that_of_the_database(stack: Stack, grids: dict[str, tuple[list[str], list[str]]]) -> None:
    shown = dict(zip(*grids["accuracy"], strict=True))
    query = f"SELECT accuracy FROM ml.accuracy WHERE in_test_set AND model_id = {shown['model_id']}"
    assert [[shown["accuracy"]]] == stack.sql(query)
    assert shown["agrees"] == "true"


def test_inputs_are_shown_without_bytes(grids: dict[str, tuple[list[str], list[str]]]) -> None:
    shown = dict(zip(*grids["inputs"], strict=True))
    assert "payload" not in shown
    assert (shown["dtype"], shown["shape"]) == ("uint8", "{8,8,1}")


def test_cell_shows_a_drawn_seven_with_its_lines(stack: Stack, pgadmin: PgAdmin, views: list[str]) -> None:
    number = stack.number("SELECT min(input_id) FROM ml.outcome WHERE label = '7'")
    ((shown,),) = stack.sql(f"SELECT translate(ml.show({number}), chr(10), '|') FROM ml.model LIMIT 1")
    assert len(set(shown) - {"|"}) == 4  # the four shades
    assert pgadmin.cell("gallery", f"SELECT ml.show({number})").split("\n") == shown.split("|")


def test_cell_of_the_gallery_shows_the_input(stack: Stack, pgadmin: PgAdmin, views: list[str]) -> None:
    ((shown,),) = stack.sql("SELECT translate(input, chr(10), '|') FROM ml.gallery LIMIT 1")
    assert pgadmin.cell("gallery", "SELECT input, name FROM ml.gallery").split("\n") == shown.split("|")


def test_example_query_opens_from_the_shared_storage(stack: Stack, pgadmin: PgAdmin, views: list[str]) -> None:
    text = (stack.directory / "db/pgadmin/queries/mistakes.sql").read_text()
    assert pgadmin.open_example("gallery", "examples", "mistakes.sql").split() == text.split()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ml.prediction SET score = 0",
        "SET transaction_read_only = off; DELETE FROM ml.input",
        "SELECT payload FROM ml.input",
    ],
)
def test_reader_is_denied(stack: Stack, pgadmin: PgAdmin, views: list[str], statement: str) -> None:
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


def log_in(stack: Stack, password: str) -> str:
    """Send pgAdmin's login form; return its error message, or nothing after a login."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    token = re.search(r'"csrfToken": "([^"]+)"', opener.open(f"{address(stack)}/login", timeout=30).read().decode())
    assert token is not None
    fields = {"email": EMAIL, "password": password, "csrf_token": token[1], "internal_button": "Login"}
    answer = opener.open(f"{address(stack)}/authenticate/login", urllib.parse.urlencode(fields).encode(), timeout=30)
    if answer.geturl() == f"{address(stack)}/browser/":
        return ""
    message = re.search(r'"messages": \[\["Warning", "([^"]+)"', answer.read().decode())
    assert message is not None
    return message[1]


def test_wrong_passwords_lock_the_login_until_it_is_unlocked(stack: Stack) -> None:
    right = stack.values["PGADMIN_PASSWORD"]
    for _ in range(ATTEMPTS - 1):
        assert "Incorrect" in log_in(stack, "wrong-words")
    assert log_in(stack, right) == ""  # and the count starts again
    for _ in range(ATTEMPTS):
        assert "Incorrect" in log_in(stack, "wrong-words")
    assert "locked" in log_in(stack, right)
    stack.compose("restart", "pgadmin")
    stack.wait_healthy("pgadmin")
    assert "locked" in log_in(stack, right)
    stack.compose("up", "--detach", "pgadmin", PGADMIN_MAX_LOGIN_ATTEMPTS="0")
    stack.wait_healthy("pgadmin")
    assert log_in(stack, right) == ""
    stack.compose("up", "--detach", "pgadmin")
    stack.wait_healthy("pgadmin")
    assert log_in(stack, right) == ""
