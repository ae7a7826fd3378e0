"""Several worker processes (worker_process.py) that start together and predict all pending inputs."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import environment


@dataclass(frozen=True)
class Run:
    """One run of a pool: wall-clock and processor seconds, the largest peak memory, the claims of the first worker."""

    seconds: float
    predicted: int
    cpu_seconds: float
    server_seconds: float
    peak_mib: float
    claim_seconds: list[float]


def work(models: Path, workers: int, model_seconds: float) -> Run:
    """Predict all pending inputs with `workers` processes; the model sleeps `model_seconds` for 1,000 inputs."""
    command = [sys.executable, str(Path(__file__).with_name("worker_process.py")), str(models), str(model_seconds)]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        pool = [stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe)) for _ in range(workers)]
        if any(process.stdout is None or process.stdout.readline() != b"ready\n" for process in pool):
            raise SystemExit("a worker process did not start: its error is above")
        began, server = time.monotonic(), environment.server_seconds()
        for process in pool:
            if process.stdin is not None:
                process.stdin.close()  # the signal to start
        results = [json.loads(process.stdout.read()) for process in pool if process.stdout is not None]
        server = environment.server_seconds() - server
    return Run(
        seconds=max(result["ended"] for result in results) - began,
        predicted=sum(result["predicted"] for result in results),
        cpu_seconds=sum(result["cpu_seconds"] for result in results),
        server_seconds=server,
        peak_mib=max(result["peak_mib"] for result in results),
        claim_seconds=results[0]["claim_seconds"],
    )
