"""The worker: claim a job, predict it, commit the predictions and "done" together; repeat until a stop.

Every (model, input) gets exactly one outcome, also when a process dies. The claim is committed at once, with a lease.
The outcomes are committed with the job's `done` in one transaction, and only the newest attempt can commit it. While
the model computes, one thread reads the next chunk and another one writes the last chunk. Longer than 300 lines,
because the methods share the state of one loop.
"""

import logging
import math
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from bundle import BundleError
from bundle.terminal import log_fields
from pypredict import PypredictError, jobs, registry, store
from pypredict.database import OUTAGE, is_away, is_refused_login, readable, reason
from pypredict.health import HealthFile
from pypredict.jobs import Job
from pypredict.lease import Leases
from pypredict.listen import Listener, Stop
from pypredict.models import Models, Probabilities
from pypredict.one_by_one import predict_alone
from pypredict.plan import Planner
from pypredict.publications import Publications
from pypredict.resources import Warnings, find_warnings, read_resources
from pypredict.run_log import RunLog
from pypredict.sessions import MAX_READER_SECONDS, end_reader_sessions
from pypredict.store import Inputs

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # after so many failures, a job is predicted row by row
IMPORT_SECONDS = 1.0  # so long a claim waits for new bundles; a longer import goes on beside the predictions
BACKOFF_SECONDS = (0.5, 1, 2, 5, 10, 30)  # after the 1st, 2nd, ... failure in a row; times a random 0.5 to 1.5
MAX_JOB_SECONDS = 600  # a job that fails again and again waits twice as long each time, up to this
ATTENTION_SECONDS = 60  # how often the worker looks at old sessions of readers and at the resources


@dataclass(frozen=True)
class Work:
    """A claimed job and its inputs."""

    job: Job
    inputs: Inputs


@dataclass
class Worker:
    """One worker: it registers new bundles, plans, claims and predicts."""

    engine: sa.Engine
    directory: Path
    models: Models
    name: str
    lease_seconds: float = 60
    poll_seconds: float = 1
    health_file: Path | None = None
    db_disk: int | None = None  # bytes of disk space that the database server has
    stop: Stop = field(default_factory=Stop)
    on_written: Callable[[int], None] = lambda n_inputs: None  # after each commit, in the thread that writes

    def __post_init__(self) -> None:
        """Start with an empty state."""
        self._publications = Publications(self.engine, self.directory, self.models, self.stop.is_set)
        self._importing: Future[list[str]] | None = None
        self._servable: list[int] = []
        self._failed: dict[int, str] = {}  # chunks that a run until empty could not read or store, and the reasons
        self._problems: list[str] = []  # the problems with bundles, found by the last check
        self._next_check = -math.inf  # when to look for new bundles and chunks again (time.monotonic)
        self._next_attention = -math.inf  # when to look at sessions and resources again
        self._warnings = Warnings()
        self._outages = 0  # failed claims in a row
        self._refusals = 0  # failed writes of outcomes in a row
        self._refused: Exception | None = None  # the error of the last one, until the worker has waited
        self._health = HealthFile(self.health_file)
        self._planner = Planner()
        self._idle = False
        self._woken = False  # by a notification
        self._announced = False
        self._leases = Leases(self.engine, self.lease_seconds)
        self._listener = Listener(self.engine, self.stop)
        self.run_log = RunLog(self.engine)

    @property
    def predicted(self) -> int:
        """Count the inputs that were predicted."""
        return self.run_log.counts.inputs

    def run(self, *, until_empty: bool) -> int:
        """Work until `stop` is set, or with until_empty until no job is open; return how many inputs were predicted.

        An invalid bundle, and a chunk that cannot be read or stored, are logged, and the others are still predicted. A
        daemon tries them and an absent database again. With until_empty they raise PypredictError at the end, which
        names them all. A database error of another kind, for example a missing table, ends the run.
        """
        ahead: Future[Work | None] | None = None
        written: Future[None] | None = None
        waited = True  # the first job after a wait is predicted and written before the next one is read: at once
        with (
            self._leases,
            ThreadPoolExecutor(2, "worker") as threads,
            ThreadPoolExecutor(1, "import") as self._importer,
        ):
            try:
                while not self.stop.is_set():
                    self._health.write()
                    self.run_log.write_line(idle=False)
                    if self._refused is not None:
                        refused, self._refused = self._refused, None
                        self._refusals += 1
                        self._wait_for_database(refused, self._refusals, until_empty)
                    try:
                        work = self._fetch_urgent() if ahead is not None else None
                        if work is None:
                            ahead = ahead or threads.submit(self._fetch, until_empty)
                            work, ahead = ahead.result(), None
                        self._outages, self._health.trouble = 0, ""
                        if work is None:
                            _end_of(written)
                            if until_empty and self._refused is None and self._nothing_open():
                                break
                    except OUTAGE as error:
                        ahead = None
                        self._forget_database()
                        self._outages += 1
                        self._wait_for_database(error, self._outages, until_empty)
                        continue
                    if work is not None:
                        if not waited:
                            ahead = ahead or threads.submit(self._fetch, until_empty)
                        outcome = self._predict(work)
                        _end_of(written)  # at most one chunk is being written
                        written = threads.submit(self._write, work.job, outcome, until_empty) if outcome else None
                        if waited or work.job.urgent:
                            _end_of(written)
                        waited = False
                    elif self._refused is None:
                        self.run_log.write_line(idle=not until_empty)
                        self._woken = self._listener.wait(self.poll_seconds)
                        waited = True
            finally:
                self._release_fetched(ahead)
                self._listener.close()
        problems = [*self._problems, *self._failed.values()]
        if until_empty and problems and not self.stop.is_set():
            said = "; ".join(dict.fromkeys(problems))
            raise PypredictError(f"{self.predicted} inputs were predicted; the run is not complete: {said}")
        return self.predicted

    def import_new(self, dataset: str) -> None:
        """Register new bundles and decide on the proposal for this dataset. Raises BundleError."""
        problems = self._publications.import_new(dataset)
        if problems:
            raise BundleError(problems[0])

    def run_chunk(self, chunk_id: int, dataset: str) -> bool:
        """Predict this one chunk at once; return False if it cannot be claimed. Raises BundleError, PypredictError."""
        with self.engine.begin() as connection:
            wanted = [
                model for model in registry.wanted_models(connection) if model.serves and model.dataset == dataset
            ]
        self._servable, problems = self.models.servable(wanted, lazily=True)
        if problems:
            raise BundleError(problems[0])
        with self.engine.begin() as connection:
            job = jobs.claim_job(connection, self._servable, self.name, self.lease_seconds, chunk_id=chunk_id)
        if job is None:
            return False
        with self.engine.begin() as connection:
            inputs = store.read_inputs(connection, job)
        outcome = self._predict(Work(job, inputs))
        problem = self.models.problem(job.model_id)
        if problem is not None:
            raise BundleError(problem)
        if outcome is not None:
            self._write(job, outcome, until_empty=False)
        return True

    def _fetch(self, until_empty: bool) -> Work | None:
        """Claim a job and read its inputs; None when no job is open. Look for new models every poll_seconds.

        After a notification, a job comes before that look.
        """
        if not until_empty:
            if self._listener.lost:  # perhaps another server has taken over
                self._forget_database()
            self._listener.open()
        if self._woken:
            self._woken = False
            work = self._fetch_announced()
            if work is not None:
                return work
        check = time.monotonic() >= self._next_check
        if check:
            self._next_check = time.monotonic() + self.poll_seconds
            self._attend_server()
            proposals = self._publications.import_new() if until_empty else self._import_aside()
            with self.engine.begin() as connection:
                self._planner.plan(connection)
                wanted = registry.wanted_models(connection)
            self._servable, refused = self.models.servable(wanted, lazily=until_empty)
            self._problems = [*proposals, *refused]
        if not self._servable:
            return None
        with self.engine.connect() as connection:
            while True:
                with connection.begin():
                    job = self._claim(connection, planned=check)
                if job is None:
                    return None
                work = self._read(connection, job, until_empty)
                if work is not None:
                    return work

    def _fetch_announced(self) -> Work | None:
        """Claim and read the chunk of the notification that ended the wait."""
        if not self._listener.chunk_id:
            return None
        with self.engine.connect() as connection:
            with connection.begin():
                job = jobs.claim_new_chunk(
                    connection, self._servable, self.name, self.lease_seconds, self._listener.chunk_id
                )
            return None if job is None else self._read(connection, job, until_empty=False)

    def _attend_server(self) -> None:
        """End old sessions of readers, and warn of what is nearly used up."""
        if time.monotonic() >= self._next_attention:
            self._next_attention = time.monotonic() + ATTENTION_SECONDS
            with self.engine.begin() as connection:
                end_reader_sessions(connection, MAX_READER_SECONDS)
            try:
                with self.engine.begin() as connection:
                    self._warnings.tell(find_warnings(read_resources(connection, self.directory, self.db_disk)))
            except OUTAGE:
                raise
            except Exception as error:  # a number that cannot be read does not end the predictions
                log.warning("the resources cannot be measured: %s", reason(error))

    def _import_aside(self) -> list[str]:
        """Import new bundles in a thread of its own: the checks of a forged bundle may take minutes."""
        seconds = 0.0
        if self._importing is None:
            self._importing, seconds = self._importer.submit(self._publications.import_new), IMPORT_SECONDS
        if wait([self._importing], seconds).not_done:
            return []
        done, self._importing = self._importing, None
        return done.result()

    def _fetch_urgent(self) -> Work | None:
        """Claim and read an urgent job after a notification: it comes before the job that was read ahead."""
        try:
            self._announced = self._listener.wait(0) or self._announced
            if not self._announced:
                return None
            with self.engine.connect() as connection:
                with connection.begin():
                    job = jobs.claim_job(connection, self._servable, self.name, self.lease_seconds, urgent=True)
                self._announced = job is not None  # after one urgent job there may be another one
                return None if job is None else self._read(connection, job, until_empty=False)
        except OUTAGE:
            return None  # predict the job that was read ahead; the next claim handles the outage

    def _read(self, connection: sa.Connection, job: Job, until_empty: bool) -> Work | None:
        """Read the inputs of a claimed job; release the job and return None when its chunk cannot be read."""
        self._leases.add(job)
        try:
            with connection.begin():
                return Work(job, store.read_inputs(connection, job))
        except OUTAGE:
            self._leases.drop(job)  # it can be claimed again when the lease ends
            raise
        except Exception as error:
            self._release(job, error, failed=True)
            if until_empty:
                self._failed[job.chunk_id] = f"chunk {job.chunk_id} cannot be read: {reason(error)}"
            return None

    def _claim(self, connection: sa.Connection, *, planned: bool) -> Job | None:
        """Claim a job. If the last claim found no job, plan first; otherwise plan only if this claim finds no job."""
        if self._idle and not planned:
            self._planner.plan(connection)
            planned = True
        job = self._claim_oldest(connection)
        if job is None and not planned and self._planner.plan(connection):
            job = self._claim_oldest(connection)
        self._idle = job is None
        return job

    def _claim_oldest(self, connection: sa.Connection) -> Job | None:
        return jobs.claim_job(connection, self._servable, self.name, self.lease_seconds, without=self._failed.keys())

    def _predict(self, work: Work) -> tuple[Inputs, Probabilities] | None:
        """Predict a job, row by row after MAX_FAILURES failures; None when the job was released."""
        job, outcome = work.job, None
        try:
            if job.failures < MAX_FAILURES:
                return self.models.predict(job.model_id, work.inputs)
            log.warning("chunk %d has failed %d times: predicting it row by row", job.chunk_id, job.failures)
            outcome = predict_alone(self.engine, job, work.inputs, self.models, self._stopped_at_work)
            if outcome is None:
                self._release(job)
        except jobs.LeaseLostError as error:
            log.warning("%s", error)
            self._leases.drop(job)
        except BundleError as error:  # the model does not load: not a failure of the job
            self._release(job)
            self.models.refuse(job.model_id, str(error))
            self._servable = [model_id for model_id in self._servable if model_id != job.model_id]
            self._next_check = -math.inf
        except OUTAGE as error:
            self._refused = error
            self._release(job, error, failed=False)
        except Exception as error:  # any error of the model: the job has failed, the worker continues
            self._release(job, error, failed=True)
        return outcome

    def _write(self, job: Job, outcome: tuple[Inputs, Probabilities], until_empty: bool) -> None:
        """Commit the outcomes, unless another worker has claimed the job; release the job when it fails."""
        inputs, probabilities = outcome
        try:
            in_training = self.models.in_training(job.model_id, inputs.arrays) if job.labelled else None
            with self.engine.begin() as connection:
                jobs.finish_job(connection, job, inputs, probabilities, in_training)
        except jobs.LeaseLostError as error:
            log.warning("%s", error)
        except OUTAGE as error:
            self._refused = error
            self._release(job, error, failed=False)
        except Exception as error:  # for example a rule of the database that somebody added
            self._release(job, error, failed=True)
            if until_empty:
                self._failed[job.chunk_id] = f"chunk {job.chunk_id} cannot be stored: {reason(error)}"
        else:
            self._refusals = 0
            self.run_log.add(job, len(probabilities), len(inputs.errors))
            self.on_written(len(probabilities) + len(inputs.errors))
        finally:
            self._leases.drop(job)

    def _release(self, job: Job, error: Exception | None = None, *, failed: bool = False) -> None:
        """Release a job; if the database is away, the job is free when its lease expires."""
        self._leases.drop(job)
        why = None if error is None else reason(error)
        if error is not None:
            extra = log_fields(model=job.model_id, chunk=job.chunk_id)
            log.error("model %d, chunk %d failed: %s", job.model_id, job.chunk_id, why, extra=extra)
        try:
            with self.engine.begin() as connection:
                delay = _backoff_seconds(job.failures + 1, MAX_JOB_SECONDS) if failed else 0
                jobs.release_job(connection, job, failed=failed, error=why, delay_seconds=delay)
        except OUTAGE:
            log.warning("chunk %d could not be released; its lease will expire", job.chunk_id)

    def _release_fetched(self, ahead: "Future[Work | None] | None") -> None:
        """Release the job that was read ahead and not started."""
        work = None
        if ahead is not None and not ahead.cancel():
            try:
                work = ahead.result()
            except (BundleError, PypredictError, *OUTAGE) as error:
                log.warning("the next job was not read: %s", reason(error))
        if work is not None:
            self._release(work.job)

    def _forget_database(self) -> None:
        """Look at everything again: the last transactions may be rolled back, or lost with a server that failed."""
        self._listener.close()
        self._planner = Planner()
        self._publications.forget()
        self._next_check = -math.inf

    def _wait_for_database(self, error: Exception, times: int, until_empty: bool) -> None:
        what, remedy = ("does not answer", "start it") if is_away(error) else ("refused a statement", "mend this")
        if until_empty and times >= len(BACKOFF_SECONDS):
            raise PypredictError(f"the database {what}: {reason(error)}; {remedy} and run again") from error
        delay = _backoff_seconds(times)
        if is_refused_login(error):
            self._health.trouble = f"the database refuses the login: {reason(error)}"
            self._health.write()
        log.warning("the database %s (%s); next try in %.1f s", what, reason(error), delay)
        readable([self.stop], delay)  # not a notification: nothing can be stored now

    def _nothing_open(self) -> bool:
        with self.engine.begin() as connection:
            planned = jobs.plan_jobs(connection)
            return jobs.count_open(connection, self._servable, self._failed.keys()) == 0 and planned == 0

    def _stopped_at_work(self) -> bool:
        """Show between two inputs of a job that the worker is alive, and return whether to stop."""
        self._health.write()
        return self.stop.is_set()


def _end_of(written: "Future[None] | None") -> None:
    """Wait until the last outcomes are written, or could not be written."""
    if written is not None:
        written.result()


def _backoff_seconds(failures: int, most: float = BACKOFF_SECONDS[-1]) -> float:
    doublings = min(max(0, failures - len(BACKOFF_SECONDS)), 10)
    seconds = float(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] * (1 << doublings))
    return min(seconds, most) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
