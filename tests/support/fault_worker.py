"""A worker process for tests that kill it: a real process, a real connection, a real model in LiteRT.

    python -m support.fault_worker URL MODELS [--point NAME] [--seconds S] [--lease S] [--mutant NAME]
        [--clock-offset S] [--call-limit S] [--daemon]

At --point (claimed, read, predicting, fenced or committed) it prints the name of the point and waits for a line on
stdin. --seconds: the time of each prediction. An input that starts with 250 crashes the process as the interpreter
would (SIGSEGV), one that starts with 251 raises, and the call for one that starts with 253 takes an hour. --call-limit:
the longest call. --mutant breaks the code on purpose: `no-fence` ignores the attempt, `apart` commits predictions
before `done`.
"""

import argparse
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from bundle.inference.load import load_model
from bundle.verify import Bundle
from pypredict import database, jobs, models, store, worker
from pypredict.binary_copy import prediction_stream
from pypredict.jobs import Job
from pypredict.listen import Stop
from pypredict.models import Models, Predict, Probabilities
from pypredict.store import Inputs

KILLER, RAISER, SLEEPER = 250, 251, 253
Pause = Callable[[str], None]
Flags = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("models", type=Path)
    parser.add_argument("--point", default="")
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--lease", type=float, default=1)
    parser.add_argument("--mutant", default="")
    parser.add_argument("--clock-offset", type=float, default=0)
    parser.add_argument("--call-limit", type=float, default=models.MAX_CALL_SECONDS)
    parser.add_argument("--daemon", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    worker.BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 1)  # type: ignore[assignment]
    models.MAX_CALL_SECONDS = options.call_limit
    if options.clock_offset:
        _shift_clock(options.clock_offset)

    def pause(point: str) -> None:
        if point == options.point:
            options.point = ""
            print(point, flush=True)
            sys.stdin.readline()

    def load(bundle: Bundle) -> Predict:
        model = load_model(bundle)

        def predict(arrays: np.ndarray) -> np.ndarray:
            pause("predicting")
            time.sleep(options.seconds)  # simulates the work of a large model
            first = arrays.reshape(len(arrays), -1)[:, 0]
            if (first == KILLER).any():
                os.kill(os.getpid(), signal.SIGSEGV)
            if (first == SLEEPER).any():
                time.sleep(3600)
            if (first == RAISER).any():
                raise RuntimeError("this input raises")
            return model.predict(arrays)

        return predict

    _pause_in_store(pause)
    if options.mutant:
        MUTANTS[options.mutant](pause)
    database.KEEPALIVE |= {
        "keepalives_idle": 1,
        "keepalives_interval": 1,
        "keepalives_count": 2,
        "tcp_user_timeout": 2000,
    }
    engine = database.connect(options.url, wait_seconds=30)
    stop = Stop()

    def stop_once(number: int, _: object) -> None:
        if stop.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
        stop.set()

    signal.signal(signal.SIGTERM, stop_once)
    loaded = Models(options.models, load)
    name = f"fault-{os.getpid()}"
    made = worker.Worker(engine, options.models, loaded, name, options.lease, poll_seconds=0.05, stop=stop)
    made.run(until_empty=not options.daemon)


def _replace(target: object, name: str, new: object) -> None:
    setattr(target, name, new)


def _pause_in_store(pause: Pause) -> None:
    read_inputs, write = store.read_inputs, worker.Worker._write

    def read(connection: sa.Connection, job: Job) -> Inputs:
        pause("claimed")
        inputs = read_inputs(connection, job)
        pause("read")
        return inputs

    def fenced(model_id: int, input_ids: Ids, probabilities: Probabilities, in_training: Flags | None) -> bytearray:
        pause("fenced")  # after the UPDATE that checks the fence, before the COPY
        return prediction_stream(model_id, input_ids, probabilities, in_training)

    def written(self: worker.Worker, job: Job, outcome: tuple[Inputs, Probabilities], until_empty: bool) -> None:
        write(self, job, outcome, until_empty)
        pause("committed")

    _replace(store, "read_inputs", read)
    _replace(jobs, "prediction_stream", fenced)
    _replace(worker.Worker, "_write", written)


def _shift_clock(seconds: float) -> None:
    real_time, real_monotonic = time.time, time.monotonic
    time.time = lambda: real_time() + seconds
    time.monotonic = lambda: real_monotonic() + seconds


def _no_fence(_: Pause) -> None:
    jobs.FINISH = sa.text(
        "UPDATE ml.job SET state = 'done', done_at = now(), lease_until = NULL, runtime = '', processor = ''"
        " WHERE model_id = :model_id AND chunk_id = :chunk_id AND :attempt = :attempt"
    )


def _apart(pause: Pause) -> None:
    def apart(
        connection: sa.Connection, job: Job, inputs: Inputs, probabilities: Probabilities, in_training: Flags | None
    ) -> None:
        with connection.engine.begin() as own:  # a separate transaction for the predictions
            columns = "model_id, input_id, in_training, class_no, score, probs"
            statement = f"COPY ml.prediction ({columns}) FROM STDIN (FORMAT binary)"
            stream = prediction_stream(job.model_id, inputs.input_ids, probabilities, in_training)
            own.connection.cursor().copy_expert(statement, io.BytesIO(stream))
        pause("fenced")
        connection.execute(jobs.FINISH, jobs._fence(job) | jobs.PLATFORM)

    _replace(jobs, "finish_job", apart)


MUTANTS = {"no-fence": _no_fence, "apart": _apart}

if __name__ == "__main__":
    main()
