"""Run a program with its stderr on a terminal, as a person does, and give what it shows there."""

import os
import pty
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor


def run_on_terminal(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the program on a terminal of 80 columns. Return it and what it shows, without escape sequences."""
    mine, its = pty.openpty()
    settings = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **(env or {})}
    with ThreadPoolExecutor(1) as thread:
        shown = thread.submit(read_terminal, mine)
        try:
            done = subprocess.run(
                command, env=settings, stdout=subprocess.PIPE, stderr=its, text=True, timeout=120, check=True
            )
        finally:
            os.close(its)
        return done, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.result().decode())


def read_terminal(terminal: int) -> bytes:
    """Read until the other end is closed; a program that shows more than the terminal holds must not wait for us."""
    shown = b""
    try:
        while part := os.read(terminal, 65_536):
            shown += part
    except OSError:
        pass  # Linux raises it when the other end is closed
    os.close(terminal)
    return shown
