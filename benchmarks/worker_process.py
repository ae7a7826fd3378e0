"""One worker process with a model that only sleeps, for the parts that count workers and rows.

    worker_process.py MODELS SECONDS

SECONDS is the time that the model sleeps for 1,000 inputs, like a model that computes on another device. The process
prints "ready", waits until its stdin is closed, works until no job is left, and prints its measurements as JSON.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import numpy as np

import environment
from pypredict import jobs
from pypredict.codec import Array
from pypredict.jobs import Job
from pypredict.models import Models, Probabilities
from pypredict.store import Inputs
from pypredict.worker import Worker

P = ParamSpec("P")


def main() -> None:
    """Predict all pending inputs and print the measurements."""
    directory, seconds = Path(sys.argv[1]), float(sys.argv[2])
    engine = environment.service()
    claims: list[float] = []
    jobs.claim_job = _timed(jobs.claim_job, claims)
    models = Models(directory, lambda bundle: functools.partial(_predict, seconds, len(bundle.manifest.classes)))
    worker = TimedWorker(engine, directory, models, "bench")
    print("ready", flush=True)
    sys.stdin.read()
    cpu = time.process_time()
    predicted = worker.run(until_empty=True)
    measured = {
        "predicted": predicted,
        "cpu_seconds": time.process_time() - cpu,
        "ended": worker.ended,
        "peak_mib": _peak_kib() / 1024,
        "claim_seconds": claims,
    }
    print(json.dumps(measured), flush=True)


class TimedWorker(Worker):
    """A worker that stores the time of its last commit, by the monotonic clock, which all processes share."""

    ended = 0.0

    def _write(self, job: Job, outcome: tuple[Inputs, Probabilities], until_empty: bool) -> None:
        super()._write(job, outcome, until_empty)
        self.ended = time.monotonic()


def _peak_kib() -> int:
    """Return this process's peak memory (Linux). The value of getrusage would include the parent before the exec."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def _timed(claim: Callable[P, Job | None], seconds: list[float]) -> Callable[P, Job | None]:
    """Return a function that claims as before and adds the seconds of each claim to the list."""

    def timed(*arguments: P.args, **options: P.kwargs) -> Job | None:
        began = time.perf_counter()
        job = claim(*arguments, **options)
        seconds.append(time.perf_counter() - began)
        return job

    return timed


def _predict(seconds: float, n_classes: int, arrays: Array) -> Probabilities:
    time.sleep(seconds * len(arrays) / 1000)  # the sleep is the work; it does not wait for another process
    return np.full((len(arrays), n_classes), 1 / n_classes, np.float32)


if __name__ == "__main__":
    main()
