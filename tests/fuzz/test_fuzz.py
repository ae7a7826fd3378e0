"""Fuzz each target for FUZZ_SECONDS, in a process of its own: no finding, and inputs were tried."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

SECONDS = int(os.environ["FUZZ_SECONDS"])


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_has_no_finding(target: str) -> None:
    program = Path(__file__).parent / "fuzzer.py"
    options = [f"-max_total_time={SECONDS}", "-print_final_stats=1"]
    done = subprocess.run([sys.executable, program, target, *options], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    tried = int(re.findall(r"number_of_executed_units: (\d+)", done.stderr)[0])
    print(f"{target}: {tried} inputs in {SECONDS} s")
    assert tried >= SECONDS  # trial is slow: it starts a process for some inputs; the others try thousands
