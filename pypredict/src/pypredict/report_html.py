"""The report as one HTML file: no other file, no script, no network. Each text of people is escaped."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bundle.messages import shorten
from bundle.page import printable_value, read_style
from bundle.whole_file import write_whole
from pypredict import PypredictError
from pypredict.replay import open_snapshot, parse_amount
from pypredict.report_data import DatasetReport, Report, read_report
from pypredict.report_metrics import McNemar
from pypredict.report_section import make_section

log = logging.getLogger(__name__)

NO_CHANGE, LARGE_CHANGE = 0.1, 0.25  # the customary limits of the population stability index
SIGNIFICANT = 0.05
MAX_PROBLEMS = 20
MAX_TEXT = 300  # characters of a text of the manifest


def make_report(engine: sa.Engine, directory: Path, path: Path, replay: str | None) -> list[str]:
    """Read a report and write it; return a sentence for each problem. replay: None, a number of predictions, or `all`.

    One transaction, which only reads, so that all parts show the same state. Raises PypredictError.
    """
    amount = 0 if replay is None else parse_amount(replay)
    with open_snapshot(engine) as connection:
        report = read_report(connection, directory, amount)
    write_html(report, path)
    if report.replayed is not None:
        log.info("%s", report.replayed)
    log.info("report: %s (%d bytes)", path, path.stat().st_size)
    return problems_of(report)


def write_html(report: Report, path: Path) -> None:
    """Write the report to a file that appears whole. Raises PypredictError when the file cannot be written."""
    page = render(report).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as file:
            file.write(page)
    except OSError as error:
        raise PypredictError(f"{path} cannot be written ({error.strerror}); name a file that can be written") from error


def render(report: Report) -> str:
    """Make the page."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pypredict"),
        autoescape=True,
        finalize=printable_value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["shorten"] = functools.partial(shorten, most=MAX_TEXT)
    sections = [
        make_section(data, verdict(data, report), good=_agrees(data) and not problems_of(report))
        for data in report.datasets
    ]
    return environment.get_template("report.html.j2").render(
        report=report,
        sections=sections,
        problems=problems_of(report)[:MAX_PROBLEMS],
        style=Markup(read_style()),  # noqa: S704 - our own file
        meaning=meaning,
        drift_meaning=drift_meaning,
        largest_change=largest_change,
    )


def problems_of(report: Report) -> list[str]:
    """List the problems of the checks and of the replay."""
    return report.problems + (report.replayed.problems if report.replayed else [])


def verdict(data: DatasetReport, report: Report) -> str:
    """Say in one line which model serves, and whether SQL, integrity and replay agree with it."""
    test = next((row for row in data.accuracies if row.in_test_set), None)
    if test is None:
        accuracy = "its test set is not predicted yet"
    else:
        same = "equal in SQL and in the manifest" if test.agrees else "NOT the accuracy in the manifest"
        accuracy = f"accuracy {test.accuracy:.4f} ({test.n_correct} of {test.n}), {same}"
    problems = len(report.problems)
    checked = f"{problems} problem{'s' if problems > 1 else ''} found" if problems else "no problem found"
    replayed = "not run in this report" if report.replayed is None else str(report.replayed)
    serves = f"model {data.model.model_id} ({data.model.bundle_id}) serves {data.model.dataset}"
    return f"{serves}; {accuracy}; integrity: {checked}; replay: {replayed}."


def _agrees(data: DatasetReport) -> bool:
    tests = [row for row in data.accuracies if row.in_test_set]
    return bool(tests) and all(row.agrees for row in tests)


def meaning(test: McNemar) -> str:
    """Say what McNemar's test means for the serving model, which is the first one."""
    if test.p_value >= SIGNIFICANT:
        return "the difference may be chance"
    return f"the {'serving' if test.only_first > test.only_second else 'other'} model is better"


def drift_meaning(row: Any) -> str:
    """Say what a row of ml.drift means."""
    if row.psi < NO_CHANGE:
        return "no change"
    if row.psi < row.psi_by_chance:
        return "too few inputs to tell"
    return "LARGE CHANGE" if row.psi >= LARGE_CHANGE else "some change"


def largest_change(row: Any, classes: Sequence[str]) -> str:
    """Name the class whose predicted share differs most from the test set's."""
    changes = [loaded - tested for loaded, tested in zip(row.shares, row.test_shares, strict=True)]
    most = max(range(len(changes)), key=lambda number: abs(changes[number]))
    return f"{classes[most]}: {row.test_shares[most]:.1%} to {row.shares[most]:.1%}"
