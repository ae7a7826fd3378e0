"""The command line as a process: errors are one sentence, and data are printed unchanged."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import fake_predict, publish_bundle

from pypredict.cli_context import explain_error, make_console
from pypredict.load import load_chunks
from pypredict.models import Models
from pypredict.predict_items import Answer
from pypredict.registry import list_models
from pypredict.report import answers_table, models_table, show
from pypredict.worker import Worker

NAMES = ("[/spoiler]", "[cat]", ":cat:")  # with markup, rich would raise, print nothing, or print an emoji


def pypredict(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    start = "from pypredict.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        env=os.environ | env,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("pypredict: ")
    return line


def in_shell(line: str, db: Database) -> subprocess.CompletedProcess[str]:
    """Run a line in which `pypredict` is the program and $'...' may hold any bytes."""
    program = "pypredict() { " + shlex.quote(str(Path(sys.executable).with_name("pypredict"))) + ' "$@"; }; '
    env = os.environ | {"DATABASE_URL": db.url("pypredict")}
    env.pop("PYTHONUNBUFFERED", None)  # a person's shell has none
    words = ["bash", "-c", program + line]
    return subprocess.run(words, env=env, text=True, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("command", ["status", "report --json"])
def test_full_disk_is_named_in_one_sentence(db: Database, command: str) -> None:
    assert "No space left on device" in sentence(in_shell(f"pypredict {command} >/dev/full", db))


@pytest.mark.parametrize("command", ["status", "report --json"])
def test_closed_output_is_no_error(db: Database, command: str) -> None:
    done = in_shell(f"pypredict {command} >&-", db)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_error_with_all_output_closed_is_an_exit_code(db: Database) -> None:
    assert in_shell("pypredict load /none --dataset toys >&- 2>&-", db).returncode == 1


@pytest.mark.parametrize("command", ["load data.npy --dataset $'x\\xff'", "predict hello --dataset $'x\\xff'"])
def test_argument_that_is_no_utf_8_is_named_in_one_sentence(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.npy").touch()
    said = sentence(in_shell(f"pypredict {command}", db))
    assert r"x\xff" in said
    assert "UTF-8" in said


def test_error_of_the_system_names_its_path() -> None:
    said = explain_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/none"))
    assert said is not None
    assert said.startswith("/none cannot be used (No such file or directory); ")


def test_reader_that_ends_early_hears_nothing(db: Database) -> None:
    done = in_shell("pypredict report | head -1; exit ${PIPESTATUS[0]}", db)
    assert (done.stdout.split(), done.stderr) == (["Progress"], "")
    assert done.returncode in (0, 1)  # 0: the pipe has taken all before it was closed


def test_an_empty_argument_is_not_the_current_folder() -> None:
    done = pypredict("load", "", "--dataset", "toys")
    assert done.returncode == 2
    assert done.stderr.startswith("pypredict: argument 2 is empty; give a value")


def test_a_text_may_look_like_an_option_without_a_value() -> None:
    said = sentence(pypredict("predict", "--dataset", "toys", "--", "--rating=", PGHOST="127.0.0.1", PGPORT="1"))
    assert "no database answered" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYPREDICT_POLL_SECONDS", "-1"),
        ("PYPREDICT_POLL_SECONDS", "0"),
        ("PYPREDICT_POLL_SECONDS", "inf"),
        ("PYPREDICT_LEASE_SECONDS", "0"),
        ("PYPREDICT_LEASE_SECONDS", "nan"),
        ("PYPREDICT_LEASE_SECONDS", "soon"),
        ("PYPREDICT_WAIT_SECONDS", "-1"),
    ],
)
def test_an_invalid_setting_is_named(name: str, value: str) -> None:
    setting = {name: value}
    said = sentence(pypredict("status", **setting))
    assert f"got {value!r}" in said.replace('"', "'")
    assert f"change {name}" in said


def test_zero_wait_seconds_is_a_valid_setting() -> None:
    done = pypredict("status", DATABASE_URL="postgresql://x@127.0.0.1:1/ml", PYPREDICT_WAIT_SECONDS="0")
    assert "no database answered (" in sentence(done)
    assert "`make db`" in sentence(done)


def test_a_health_file_in_a_missing_directory_is_refused(db: Database, tmp_path: Path) -> None:
    done = pypredict(
        "run",
        "--until-empty",
        "--models",
        str(tmp_path),
        DATABASE_URL=db.url("pypredict"),
        PYPREDICT_HEALTH_FILE=str(tmp_path / "none/beat"),
    )
    assert f"{tmp_path}/none/beat cannot be written" in sentence(done)


def test_a_stored_manifest_of_another_version_is_named(
    db: Database, engine: sa.Engine, owner: sa.Engine, tmp_path: Path
) -> None:
    publish_bundle(tmp_path)
    Worker(engine, tmp_path, Models(tmp_path, lambda _: fake_predict), "tester").run(until_empty=True)
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.model SET manifest = manifest || '{\"new_field\": 1}'"))
    done = pypredict("load", str(tmp_path), "--dataset", "toys", DATABASE_URL=db.url("pypredict"))
    assert "this version cannot read a stored manifest" in sentence(done)
    assert "new_field: extra inputs" in sentence(done)
    assert "setting" not in sentence(done)


def test_names_are_printed_as_they_are_stored(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = publish_bundle(tmp_path, classes=NAMES)
    Worker(engine, tmp_path, Models(tmp_path, lambda _: fake_predict), "tester").run(until_empty=True)
    console = make_console()
    with engine.begin() as connection:
        show(connection, console)
        console.print(models_table(list_models(connection)))
    printed = capsys.readouterr().out
    assert [printed.count(name) for name in NAMES] == [2, 2, 2], printed  # a row and a column of the confusion matrix
    for name in NAMES:
        console.print(answers_table([Answer(f"a film {name}", name, 0.5, None, bundle.manifest.bundle_id)]))
        assert capsys.readouterr().out.count(name) == 2


def test_progress_shows_a_file_name_with_brackets(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert load_chunks(engine, "photos[/old].npy", iter([]), None) == []


def test_17_a_daemon_waiting_for_a_database_ends_at_sigterm() -> None:
    start = "from pypredict.cli import main; main()"
    env = os.environ | {"DATABASE_URL": "postgresql://x@127.0.0.1:1/ml", "PYPREDICT_MODELS": "/"}
    with subprocess.Popen([sys.executable, "-c", start, "run"], env=env, text=True, stderr=subprocess.PIPE) as daemon:
        assert daemon.stderr is not None
        assert "waiting up to 30 s for the database" in daemon.stderr.readline()
        daemon.terminate()
        assert daemon.wait(10) == -signal.SIGTERM


def test_a_path_that_is_too_long_is_refused_in_one_sentence(engine: sa.Engine, db: Database, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    Worker(engine, tmp_path, Models(tmp_path, lambda _: fake_predict), "tester").run(until_empty=True)
    done = pypredict(
        "load", "x" * 300, "--dataset", "toys", "--models", str(tmp_path), DATABASE_URL=db.url("pypredict")
    )
    assert "does not exist" in sentence(done)


SCHEME, PLACE = "postgresql://", "127.0.0.1:1/ml"
UNREADABLE = {  # the password is meant to be S3, a character, and cret
    "an at sign": f"{SCHEME}pypredict:S3@cret.invalid@{PLACE}",
    "two at signs": f"{SCHEME}pypredict:S3@@cret@{PLACE}",
    "an at sign and a colon": f"{SCHEME}pypredict:S3@cret:12@{PLACE}",
    "an at sign and a slash": f"{SCHEME}pypredict:S3@cret/12@{PLACE}",
    "an at sign and a question mark": f"{SCHEME}pypredict:S3@cret?x@{PLACE}",
    "an at sign and a bracket": f"{SCHEME}pypredict:S3@[cret@{PLACE}",
    "a slash": f"{SCHEME}pypredict:S3/cret@{PLACE}",
    "digits and a slash": f"{SCHEME}localhost:1/S3cret@{PLACE}",
    "a slash and an option": f"{SCHEME}localhost:1/a?sslmode=S3cret@{PLACE}",
    "a broken escape": f"{SCHEME}pypredict:S3%zzcret@{PLACE}",
    "an escaped NUL": f"{SCHEME}pypredict:S3%00cret@{PLACE}",
    "a host with a space": f"{SCHEME}pypredict:S3cret@my host:1/ml",
    "a host with a broken escape": f"{SCHEME}pypredict:S3cret@%zz{PLACE}",
    "a space before it": f" {SCHEME}pypredict:S3cret@{PLACE}",
    "another driver": f"postgresql+psycopg2{SCHEME[10:]}pypredict:S3cret@{PLACE}?sslmode=require",
    "no quotes in a DSN": "host=127.0.0.1 port=1 password=S3 cret user=pypredict",
    "an open quote in a DSN": "host=127.0.0.1 port=1 password='S3 cret user=pypredict",
    "a URL in a DSN": f"host=127.0.0.1 port=1 dbname={SCHEME}pypredict:S3cret@{PLACE}",
    "a byte that is not UTF-8": os.fsdecode(f"{SCHEME}pypredict:S3?cret@{PLACE}".encode().replace(b"?", b"\xff")),
}
READABLE = {
    "a hash": f"{SCHEME}pypredict:S3#cret@{PLACE}",
    "a question mark": f"{SCHEME}pypredict:S3?cret@{PLACE}",
    "a colon": f"{SCHEME}pypredict:S3:cret@{PLACE}",
    "escapes": f"{SCHEME}pypredict:S3%40%2F%23cret@{PLACE}",
    "an IPv6 address": f"{SCHEME}u@[::1]:1/ml",
    "two hosts": f"{SCHEME}u@127.0.0.1:1,{PLACE}",
    "a socket": f"{SCHEME}u@%2Fnowhere/ml",
    "a socket and a user with an at sign": f"{SCHEME}/ml?host=/nowhere&user=a%40b",
    "a DSN": "host=/nowhere dbname=ml user=u password='S3 cret'",  # pragma: allowlist secret
}


@pytest.mark.parametrize("url", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_76_url_that_libpq_splits_in_its_password_is_refused_before_a_look_up(url: str) -> None:
    done = pypredict("status", DATABASE_URL=url)
    assert "DATABASE_URL" in sentence(done)
    assert "S3" not in done.stdout + done.stderr
    assert "cret" not in done.stdout + done.stderr


@pytest.mark.parametrize("url", READABLE.values(), ids=READABLE.keys())
def test_76_url_that_libpq_reads_is_used_and_its_password_not_printed(url: str) -> None:
    done = pypredict("status", DATABASE_URL=url)
    assert "no database answered" in sentence(done)
    assert "S3" not in done.stdout + done.stderr
    assert "cret" not in done.stdout + done.stderr


@pytest.mark.parametrize("variable", ["PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE"])
def test_76_url_in_a_variable_of_libpq_is_refused_without_its_password(variable: str) -> None:
    env = {"PGHOST": "127.0.0.1", "PGPORT": "1", "DATABASE_URL": ""} | {variable: f"{SCHEME}u:S3cret@{PLACE}"}
    done = pypredict("status", **env)
    assert f"{variable} holds more than one part of an address" in sentence(done)
    assert "S3cret" not in done.stdout + done.stderr


def test_76_wrong_password_in_a_variable_is_not_printed(db: Database) -> None:
    at = sa.make_url(db.url("pypredict"))
    url = f"postgresql://{at.username}@{at.host}:{at.port}/{at.database}"
    done = pypredict("status", DATABASE_URL=url, PGPASSWORD="S3 cret@/#?")
    assert "refuses the login" in sentence(done)
    assert "S3" not in done.stdout + done.stderr
