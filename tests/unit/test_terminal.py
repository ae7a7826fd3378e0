"""Names of files and classes cannot control the terminal or the log, and do not look like other lines."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from support.bundles import manifest_for

from bundle.manifest import ClassMetrics, Manifest
from bundle.messages import list_names, printable
from bundle.terminal import PrintableFormatter, make_console
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
