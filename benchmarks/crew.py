"""Worker processes (child.py) that start together on what is pending, and what they tell."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import scene


@dataclass(frozen=True)
class Run:
    """What a crew did: by the clock, in processor seconds, peak memory of the largest, claims of the first."""

    seconds: float
    predicted: int
    cpu_seconds: float
    server_seconds: float
    peak_mib: float
    claim_seconds: list[float]


def work(models: Path, workers: int, model_seconds: float) -> Run:
    """Let so many workers predict all that is pending, with a model that takes so long for 1,000 inputs."""
    command = [sys.executable, str(Path(__file__).with_name("child.py")), str(models), str(model_seconds)]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        crew = [stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe)) for _ in range(workers)]
        if any(child.stdout is None or child.stdout.readline() != b"ready\n" for child in crew):
            raise SystemExit("a worker did not start")
        began, server = time.monotonic(), scene.server_seconds()
        for child in crew:
            if child.stdin is not None:
                child.stdin.close()  # the word to go
        told = [json.loads(child.stdout.read()) for child in crew if child.stdout is not None]
        server = scene.server_seconds() - server
    return Run(
        max(one["ended"] for one in told) - began,
        sum(one["predicted"] for one in told),
        sum(one["cpu_seconds"] for one in told),
        server,
        max(one["peak_mib"] for one in told),
        told[0]["claim_seconds"],
    )
