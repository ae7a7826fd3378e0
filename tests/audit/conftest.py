"""The scripts of audit/ run as `make audit` runs them: in their own environment, which `make test-audit` installs."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO
from support.advisory_service import AdvisoryService

AUDIT_BIN = REPO / ".local/audit-venv/bin"
HASH = "0" * 64

Done = subprocess.CompletedProcess[str]


def run_audit(script: str, *arguments: str | Path, url: str = "http://127.0.0.1:9/") -> Done:
    """Run a script of audit/; port 9 of this machine answers nobody."""
    command = [AUDIT_BIN / "python", REPO / "audit" / script, *arguments]
    environment = {**os.environ, "PIP_AUDIT_OSV_URL": url}
    return subprocess.run(command, env=environment, cwd=REPO, capture_output=True, text=True, check=False)


def write_lock(path: Path, *pins: str) -> Path:
    """Write a lock with these pins, in the form of `make lock`."""
    path.write_text("".join(f"{pin} \\\n    --hash=sha256:{HASH}\n    # via nobody\n" for pin in pins))
    return path


@pytest.fixture
def service() -> Iterator[AdvisoryService]:
    """Yield a local advisory service that knows one advisory, of jinja2 before 2.11.3."""
    with AdvisoryService(REPO / "tests/audit/advisories") as running:
        yield running
