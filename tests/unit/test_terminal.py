"""Names of files and classes cannot control the terminal or the log, and do not look like other lines."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from support.bundles import manifest_for
from support.terminal import run_on_terminal

from bundle.manifest import ClassMetrics, Manifest
from bundle.messages import list_names, printable
from bundle.terminal import JsonFormatter, PrintableFormatter, format_rate, log_fields, make_console
from pyml.reports.summary import class_table

TITLE = "\x1b]0;owned\x07"  # a terminal takes it for its new title
FORGED = f"x{TITLE}\n2026-01-01 ERROR all is lost"
SHOWN = r"x\x1b]0;owned\x07\n2026-01-01 ERROR all is lost"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (FORGED, SHOWN),
        ("\r\t\x00\x7f\x9b31m", r"\r\t\x00\x7f\x9b31m"),
        ("a\u202egpj.exe\u2028\u2066", r"a\u202egpj.exe\u2028\u2066"),
        ("caf\udce9", r"caf\xe9"),
        ("half \ud83d", r"half \ud83d"),
        ("Größe 日本 שלום 👩‍🔬 \\x1b", "Größe 日本 שלום 👩‍🔬 \\x1b"),
    ],
)
def test_74_printable_escapes_what_a_terminal_obeys(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_log_record_stays_one_line_and_a_traceback_keeps_its_lines() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("skipped: %s", FORGED)
    try:
        raise ValueError(TITLE)
    except ValueError:
        log.exception("failed")
    first, second, *traceback = stream.getvalue().splitlines()
    assert first == f"WARNING skipped: {SHOWN}"
    assert second == "ERROR failed"
    assert len(traceback) > 2
    assert traceback[-1] == r"ValueError: \x1b]0;owned\x07"


def test_json_record_stays_one_line_with_the_same_escapes() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("skipped: %s", FORGED, extra=log_fields(dataset=FORGED, inputs=3))
    try:
        raise ValueError(TITLE)
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["time"].endswith("+00:00")
    assert {**first, "time": ""} == {
        "time": "",
        "level": "WARNING",
        "message": f"skipped: {SHOWN}",
        "dataset": SHOWN,
        "inputs": 3,
    }
    assert (second["level"], second["message"]) == ("ERROR", "failed")
    assert second["traceback"].splitlines()[-1] == r"ValueError: \x1b]0;owned\x07"


def test_74_console_escapes_lines_titles_headers_and_cells() -> None:
    console = make_console(width=200)
    table = Table(FORGED, title=FORGED)
    table.add_row(FORGED)
    with console.capture() as captured:
        console.print(table, FORGED)
    assert captured.get().count(SHOWN) == 4
    assert "\x1b" not in captured.get()


def test_table_of_metrics_shows_a_class_with_escapes_in_one_line() -> None:
    x = np.zeros((3, 4), np.uint8)
    one = ClassMetrics(n=1, precision=1, recall=1, f1=1, auroc=1, average_precision=1)
    plain = manifest_for("toy", x, np.arange(3), classes=(FORGED, "b", "c"))
    metrics = plain.metrics.model_copy(update={"per_class": (one,) * 3, "confusion": ((0, 1, 0), (1, 0, 0), (0, 0, 1))})
    manifest: Manifest = plain.model_copy(update={"metrics": metrics})
    console = make_console(width=240)
    with console.capture() as captured:
        console.print(class_table(manifest))
    assert captured.get().count(SHOWN) == 2  # the class, and what the other class is confused with
    assert "\x1b" not in captured.get()


def test_table_of_metrics_fits_80_columns_and_cuts_no_number() -> None:
    x = np.zeros((1200, 4), np.uint8)
    classes = tuple(f"{letter}_{'very_long_name_of_a_class' * 4}" for letter in "abc")
    one = ClassMetrics(n=54321, precision=0.1234, recall=0.2345, f1=0.3456, auroc=0.4567, average_precision=0.5678)
    plain = manifest_for("toy", x, np.arange(1200) % 3, classes=classes)
    confusion = ((0, 98765, 0), (1, 0, 0), (0, 0, 1))
    metrics = plain.metrics.model_copy(update={"per_class": (one,) * 3, "confusion": confusion})
    console = make_console(width=80)
    with console.capture() as captured:
        console.print(class_table(plain.model_copy(update={"metrics": metrics})))
    shown = captured.get()
    assert max(map(len, shown.splitlines())) <= 80
    assert {"54321", "0.1234", "0.2345", "0.3456", "0.4567", "0.5678"} <= set(shown.split())
    assert "…" not in shown


BAR = """
import logging, time
from bundle.terminal import log_to_stderr, progress_bar
log_to_stderr("%(levelname)s %(message)s", logging.INFO)
with progress_bar() as bar:
    task = bar.add_task("load", total=3000)
    for _ in range(3):
        bar.advance(task, 1000)
        bar.refresh()
        time.sleep(0.01)  # a rate needs a time
    logging.info("a line of the log")
print("result")
"""


def test_progress_bar_shows_rate_and_remaining_time_on_a_terminal() -> None:
    done, plain = run_on_terminal([sys.executable, "-c", BAR])
    assert done.stdout == "result\n"
    assert re.search(r"load .*3000/3000 [\d,]+/s 0:00:00", plain)
    assert re.search(r"[\r\n]INFO a line of the log\s*[\r\n]", plain)


def test_progress_bar_writes_nothing_into_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("result\n", "INFO a line of the log\n")


@pytest.mark.parametrize(
    ("per_second", "shown"), [(None, ""), (0, ""), (1234.5, "1,234/s"), (1, "1/s"), (0.4, "2.5 s each")]
)
def test_a_rate_below_one_is_the_time_for_each(per_second: float | None, shown: str) -> None:
    assert format_rate(per_second) == shown


@pytest.mark.parametrize("program", ["pyml", "pypredict"])
def test_json_log_has_the_error_of_a_command(program: str, tmp_path: Path) -> None:
    start = f"from {program}.cli import main; main()"
    name = str(tmp_path / "absent.txt")
    arguments = ["train", name] if program == "pyml" else ["load", "x", "--label-map", name]
    env = os.environ | {f"{program.upper()}_LOG": "json"}
    command = [sys.executable, "-c", start, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = json.loads(done.stderr)
    assert error["level"] == "ERROR"
    assert name in error["message"]


@pytest.mark.parametrize("program", ["pyml", "pypredict"])
def test_error_and_wrong_usage_show_no_escape_sequence(program: str, tmp_path: Path) -> None:
    start = f"from {program}.cli import main; main()"
    name = str(tmp_path / f"{FORGED}.txt")
    error = ["train", name] if program == "pyml" else ["load", "x", "--label-map", name]
    for arguments, code in ((error, 1), (["compare" if program == "pyml" else "status", FORGED], 2)):
        done = subprocess.run([sys.executable, "-c", start, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert r"x\x1b]0;owned\x07" in done.stderr
        assert "\x1b]" not in done.stderr + done.stdout
        assert code == 2 or len(done.stderr.splitlines()) == 1


def test_list_of_names_shows_ten_and_shortens_each() -> None:
    assert list_names(["a", "b"]) == "a, b"
    shown = list_names([f"{number:02}{'x' * 10_000_000}" for number in range(12)])
    assert shown.startswith("00xxx")
    assert shown.endswith("... and 2 more")
    assert len(shown) < 1000


@pytest.mark.parametrize("program", ["pyml", "pypredict"])
def test_what_stdout_cannot_encode_is_escaped(program: str) -> None:
    code = f"import sys, typer; from {program}.cli import app, main; "
    code += "app.command('show')(lambda: typer.echo('class 猫 é')); sys.argv = ['x', 'show']; main()"
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=False)
    assert done.stdout.decode("latin-1") == "class \\u732b é\n"
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("stdout", ["None", "io.StringIO()"])
def test_the_log_starts_without_a_stdout_of_its_own(stdout: str) -> None:
    code = f"import io, sys; sys.stdout = {stdout}; from bundle.terminal import log_to_stderr; log_to_stderr('', 10)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_ends_as_usual_when_the_shell_has_closed_its_output(closed: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pyml")
    done = subprocess.run(
        ["bash", "-c", f"{program} compare --models none {closed}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = "" if "2>&-" in closed else "pyml: none/bundles holds no published run to compare; pyml train makes one\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
