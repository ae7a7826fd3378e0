"""Python code in a process of its own, with limits on memory and time, and the memory that it needed."""

import os
import resource
import subprocess
import sys
from dataclasses import dataclass

ADDRESS_BYTES = 6 * 2**30  # the machine survives code that reads without end
PRINT_PEAK = """
import atexit, re
def _print_peak():  # of this program only: getrusage counts the memory of the process that started it, too
    with open("/proc/self/status") as status:
        print(re.search(r"VmHWM:\\s*(\\d+) kB", status.read())[1])
atexit.register(_print_peak)
"""


@dataclass(frozen=True)
class Ended:
    """The lines that the code printed, and its peak of resident memory."""

    lines: list[str]
    peak_mib: float


def run_limited(code: str, *arguments: str, seconds: float = 60) -> Ended:
    """Run the code. Raises CalledProcessError when it fails, TimeoutExpired when it needs longer."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT_PEAK + code, *arguments],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES)),
        text=True,
        stdout=subprocess.PIPE,
        timeout=seconds,
        check=True,
    )
    *lines, peak = done.stdout.splitlines()
    return Ended(lines, int(peak) / 1024)
