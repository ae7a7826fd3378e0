"""The files of deploy/observe: their metrics exist, and Prometheus can read its rules."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import REPO

from pypredict.metrics import Collector, serve_metrics

OBSERVE = REPO / "deploy/observe"
DASHBOARDS = sorted((OBSERVE / "grafana/dashboards").glob("*.json"))
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="SKIPPED, LOUDLY: needs promtool (Debian: prometheus)")


def expressions(part: object) -> Iterator[str]:
    """Give each PromQL expression of a dashboard."""
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "expr")
        yield from (found for value in part.values() for found in expressions(value))
    if isinstance(part, list):
        yield from (found for value in part for found in expressions(value))


def names(expression: str) -> set[str]:
    return set(re.findall(r"\bpypredict_\w+", expression))


@pytest.fixture
def served(engine: sa.Engine, tmp_path: Path) -> set[str]:
    """Give the names that the real exporter serves."""
    port = serve_metrics(0, "127.0.0.1", Collector(engine, tmp_path, 10**12))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.MULTILINE))


def test_rules_name_metrics_that_are_served(served: set[str]) -> None:
    rules = re.findall(r"^ +expr: (.*)$", (OBSERVE / "alerts.yml").read_text(), re.MULTILINE)
    assert len(rules) == (OBSERVE / "alerts.yml").read_text().count("- alert:")
    used = set().union(*map(names, rules))
    assert len(used) >= 7
    assert used - served == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_names_metrics_that_are_served(served: set[str], path: Path) -> None:
    dashboard = json.loads(path.read_text())
    used = set().union(*map(names, expressions(dashboard["panels"])))
    assert used - served == set()
    assert served - used == {"pypredict_database_up"}  # everything else is on the dashboard


def test_dashboard_has_the_provisioned_source() -> None:
    source = (OBSERVE / "grafana/provisioning/datasources/prometheus.yml").read_text()
    (uid,) = re.findall(r"uid: (\w+)", source)
    for path in DASHBOARDS:
        assert set(re.findall(r'"type": "prometheus",\s+"uid": "(\w+)"', path.read_text())) == {uid}


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "deploy/observe/prometheus.yml"), ("test", "rules", "tests/db/alerts.yml")],
    ids=["config", "alerts"],
)
def test_promtool_accepts(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout + done.stderr
