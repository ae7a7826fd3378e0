"""Predict the inputs of a job one by one, after the job failed three times: find the bad input, predict the others.

Before each prediction, the input's number is committed in `job.in_flight`. When the worker dies, the number stays
there, and the next claim counts the death. After two deaths alone, an input is a `crash` and is not tried again.
Suspects run last, so that a death with another cause rarely hits the same input twice.
"""

import logging
from collections.abc import Callable

import numpy as np
import sqlalchemy as sa

from bundle import BundleError
from bundle.messages import one_line
from pypredict import jobs
from pypredict.jobs import Job
from pypredict.models import Models, Probabilities
from pypredict.store import InputError, Inputs

log = logging.getLogger(__name__)

MAX_DEATHS = 2


def predict_alone(
    engine: sa.Engine, job: Job, inputs: Inputs, models: Models, stopped: Callable[[], bool]
) -> tuple[Inputs, Probabilities] | None:
    """Predict the inputs one by one; return the predicted ones (with all errors) and their probabilities (n, k).

    Returns None after a stop. Raises LeaseLostError.
    """
    with engine.begin() as connection:
        deaths = jobs.read_deaths(connection, job)
    errors = list(inputs.errors)
    done: dict[int, Probabilities] = {}
    for row in sorted(range(len(inputs.input_ids)), key=lambda row: deaths.get(int(inputs.input_ids[row]), 0)):
        if stopped():
            return None
        input_id = int(inputs.input_ids[row])
        if deaths.get(input_id, 0) >= MAX_DEATHS:
            errors.append(InputError(input_id, "crash", f"{deaths[input_id]} workers died on this input alone"))
            continue
        with engine.begin() as connection:
            jobs.mark_in_flight(connection, job, input_id)
        try:
            alone, probabilities = models.predict(
                job.model_id, Inputs(inputs.input_ids[[row]], inputs.arrays[[row]], [])
            )
        except BundleError:
            raise  # the model does not load: this input is not the cause
        except Exception as error:
            errors.append(InputError(input_id, "model_error", f"{type(error).__name__}: {one_line(error)}"))
        else:
            errors += alone.errors
            if len(probabilities):
                done[row] = probabilities
    if len(inputs.input_ids):
        with engine.begin() as connection:
            jobs.mark_in_flight(connection, job, None)  # a death from here on has another cause
    rows = sorted(done)
    for refused in errors[len(inputs.errors) :]:
        log.error("input %d gets no prediction: %s, %s", refused.input_id, refused.reason, refused.detail)
    probabilities = np.concatenate([done[row] for row in rows]) if rows else np.empty((0, 0), np.float32)
    return Inputs(inputs.input_ids[rows], inputs.arrays[rows], errors), probabilities
