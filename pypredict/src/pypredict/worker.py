"""Claim a batch, predict it, commit predictions and "done" together; again until told to stop.

Whatever dies, every (model, input) gets exactly one outcome: the claim is committed at once with a lease, and the
outcomes are committed with the batch's `done` in one transaction that only the newest attempt can pass. While the model
computes, one thread reads the next chunk and another writes the last one.
"""

import logging
import math
import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from bundle import BundleError
from bundle.publish import pointers
from bundle.verify import open_current
from pypredict import PypredictError, registry, store
from pypredict.isolate import predict_alone
from pypredict.lease import Leases
from pypredict.listen import OUTAGE, Listener, Stop
from pypredict.plan import Planner
from pypredict.predictor import Models, Probabilities
from pypredict.source import read_holdout, read_words
from pypredict.store import Batch, Inputs

log = logging.getLogger(__name__)

RETRY_SECONDS = 30  # until a refused bundle is looked at again
MAX_FAILURES = 3  # a batch that failed this often is worked row by row
BACKOFF_SECONDS = (0.5, 1, 2, 5, 10, 30)  # after the 1st, 2nd, ... failure in a row; times a random 0.5 to 1.5


@dataclass(frozen=True)
class Work:
    """A claimed batch and its inputs."""

    batch: Batch
    inputs: Inputs


@dataclass
class Worker:
    """One worker: it registers what the trainer published, plans, claims and predicts."""

    engine: sa.Engine
    directory: Path
    models: Models
    name: str
    lease_seconds: float = 60
    poll_seconds: float = 1
    health_file: Path | None = None
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self._taken: dict[Path, bytes] = {}  # pointers as they were when their bundles were taken
        self._refused: dict[Path, tuple[bytes, float]] = {}  # and those that were not, with the time of the next try
        self._servable: list[int] = []
        self._next_look = -math.inf
        self._outages = 0
        self._planner = Planner()
        self._idle = False
        self._leases = Leases(self.engine, self.lease_seconds)
        self._listener = Listener(self.engine, self.stop)
        self.predicted = 0

    def run(self, *, until_empty: bool) -> int:
        """Work until `stop` is set, or until nothing is left to do; return how many inputs were predicted.

        With until_empty a bundle that cannot be trusted is an error (BundleError), and so is an absent database;
        a daemon names them in the log and tries again. Everything else that a statement raises ends both.
        """
        ahead: Future[Work | None] | None = None
        written: Future[None] | None = None
        with self._leases, ThreadPoolExecutor(2, "worker") as threads:
            try:
                while not self.stop.is_set():
                    self._beat()
                    try:
                        ahead = ahead or threads.submit(self._fetch, until_empty)
                        work, ahead = ahead.result(), None
                        self._outages = 0
                    except OUTAGE as error:
                        ahead = None
                        self._wait_out(error, until_empty)
                        continue
                    if work is not None:
                        ahead = threads.submit(self._fetch, until_empty)
                        outcome = self._predict(work)
                        if written is not None:
                            written.result()  # at most one chunk waits to be written
                        written = threads.submit(self._write, work.batch, outcome) if outcome else None
                        continue
                    if written is not None:
                        written.result()
                        written = None
                    if until_empty and self._nothing_open():
                        break
                    self._listener.wait(self.poll_seconds)
            finally:
                self._put_back(ahead)
                self._listener.close()
        return self.predicted

    def run_chunk(self, chunk_id: int) -> bool:
        """Predict this one chunk here and now; tell whether it was free to take. Raises BundleError, PypredictError."""
        with self.engine.begin() as connection:
            self._servable, _ = self.models.servable(registry.wanted_models(connection), lazily=True)
            batch = store.claim_batch(connection, self._servable, self.name, self.lease_seconds, chunk_id)
        if batch is None:
            return False
        with self.engine.begin() as connection:
            inputs = store.read_inputs(connection, batch)
        outcome = self._predict(Work(batch, inputs))
        if outcome is not None:
            self._write(batch, outcome)
        return True

    def _fetch(self, until_empty: bool) -> Work | None:
        """Look for new models now and then, plan, claim and read; None when nothing is open."""
        look = time.monotonic() >= self._next_look
        if not until_empty:
            self._listener.open()
        if look:
            self._next_look = time.monotonic() + self.poll_seconds
            self.register_current(strict=until_empty)
            with self.engine.begin() as connection:
                self._planner.plan(connection)
                wanted = registry.wanted_models(connection)
            self._servable, problems = self.models.servable(wanted, lazily=until_empty)
            if until_empty and problems:
                raise BundleError(problems[0])
        if not self._servable:
            return None
        with self.engine.connect() as connection:
            while True:
                with connection.begin():
                    batch = self._claim(connection, planned=look)
                if batch is None:
                    return None
                self._leases.add(batch)
                try:
                    with connection.begin():
                        return Work(batch, store.read_inputs(connection, batch))
                except OUTAGE:
                    self._leases.drop(batch)  # it will be retaken when the lease ends
                    raise
                except Exception as error:  # the chunk is at fault, whatever SQL has put there: on to the next one
                    self._give_back(batch, error, failed=True)
                    if until_empty and not isinstance(error, PypredictError):
                        raise PypredictError(f"chunk {batch.chunk_id} cannot be read: {_sentence(error)}") from error
                    if until_empty:
                        raise

    def _claim(self, connection: sa.Connection, *, planned: bool) -> Batch | None:
        """Claim a batch; plan first if nothing was open the last time, else only when nothing is open now."""
        if self._idle and not planned:
            self._planner.plan(connection)
            planned = True
        batch = store.claim_batch(connection, self._servable, self.name, self.lease_seconds)
        if batch is None and not planned and self._planner.plan(connection):
            batch = store.claim_batch(connection, self._servable, self.name, self.lease_seconds)
        self._idle = batch is None
        return batch

    def register_current(self, *, strict: bool) -> None:
        """Register every bundle that the trainer proposes and load its held-out set, both once.

        A new model is loaded and tried first: one that fails is never registered, and the old one stays. With strict
        that raises (BundleError, PypredictError); else it is named in the log once, and tried again now and then.
        """
        for path in pointers(self.directory).values():
            try:
                proposal = path.read_bytes()
            except OSError:
                proposal = b""  # what is wrong with it is said below
            refused, next_try = self._refused.get(path, (None, 0))
            if proposal == self._taken.get(path) or (proposal == refused and time.monotonic() < next_try):
                continue
            try:
                self._register(path)
            except (BundleError, PypredictError) as error:
                if strict:
                    raise
                if proposal != refused:
                    log.error("%s is not taken, the model before it stays: %s", path.name, error)
                self._refused[path] = proposal, time.monotonic() + RETRY_SECONDS
            else:
                self._taken[path] = proposal

    def _register(self, path: Path) -> None:
        """Take what one pointer proposes. Raises BundleError, PypredictError."""
        bundle = open_current(self.directory, path)
        with self.engine.begin() as connection:
            known = registry.knows_model(connection, bundle.model_sha256)
        predict = None if known else self.models.load(bundle)
        chunks, words = list(read_holdout(bundle)), read_words(bundle)
        with self.engine.begin() as connection:
            model_id, new = registry.register_model(connection, bundle)
            registry.add_holdout(connection, model_id, [store.load_chunk(connection, c)[0] for c in chunks])
            if words:
                registry.add_vocabulary(connection, bundle.manifest.prep_sha256, words)
        if new:
            log.info("model %d (%s) now serves %s", model_id, bundle.manifest.bundle_id, path.stem)
        if predict is not None:
            self.models.admit(model_id, bundle, predict)

    def _predict(self, work: Work) -> tuple[Inputs, Probabilities] | None:
        """Predict a batch, row by row when it has failed too often; None when it was given back."""
        batch, outcome = work.batch, None
        try:
            if batch.failures < MAX_FAILURES:
                return self.models.predict(batch.model_id, work.inputs)
            log.warning("chunk %d has failed %d times: row by row", batch.chunk_id, batch.failures)
            outcome = predict_alone(self.engine, batch, work.inputs, self.models, self.stop.is_set)
            if outcome is None:
                self._give_back(batch)
        except store.LeaseLostError as error:
            log.warning("%s", error)
            self._leases.drop(batch)
        except BundleError:
            self._give_back(batch)  # its model does not load: no fault of the inputs
            raise
        except OUTAGE as error:
            self._give_back(batch, error, failed=False)
        except Exception as error:  # whatever a model raises: the batch is at fault, the worker goes on
            self._give_back(batch, error, failed=True)
        return outcome

    def _write(self, batch: Batch, outcome: tuple[Inputs, Probabilities]) -> None:
        """Commit the outcomes, unless somebody else has taken the batch over."""
        inputs, probabilities = outcome
        try:
            with self.engine.begin() as connection:
                store.finish_batch(connection, batch, inputs, probabilities)
        except store.LeaseLostError as error:
            log.warning("%s", error)
        except OUTAGE as error:
            self._give_back(batch, error, failed=False)
        except Exception as error:
            self._give_back(batch, error, failed=True)
            raise
        else:
            self.predicted += len(probabilities)
            log.info(
                "model %d, chunk %d: %d predicted, %d refused",
                *(batch.model_id, batch.chunk_id, len(probabilities), len(inputs.errors)),
            )
        finally:
            self._leases.drop(batch)

    def _give_back(self, batch: Batch, error: Exception | None = None, *, failed: bool = False) -> None:
        """Release a batch; where even that fails, its lease runs out."""
        self._leases.drop(batch)
        reason = None if error is None else _sentence(error)
        if error is not None:
            log.error("model %d, chunk %d failed: %s", batch.model_id, batch.chunk_id, reason)
        try:
            with self.engine.begin() as connection:
                delay = _backoff_seconds(batch.failures + 1) if failed else 0
                store.release_batch(connection, batch, failed=failed, error=reason, delay_seconds=delay)
        except OUTAGE:
            log.warning("chunk %d could not be released; its lease runs out", batch.chunk_id)

    def _put_back(self, ahead: "Future[Work | None] | None") -> None:
        """Release what was fetched ahead and never begun."""
        work = None
        if ahead is not None and not ahead.cancel():
            try:
                work = ahead.result()
            except (BundleError, PypredictError, *OUTAGE) as error:
                log.warning("the next batch was not read: %s", _sentence(error))
        if work is not None:
            self._give_back(work.batch)

    def _wait_out(self, error: Exception, until_empty: bool) -> None:
        self._outages += 1
        if until_empty and self._outages >= len(BACKOFF_SECONDS):
            raise PypredictError(f"the database stays away: {_sentence(error)}; start it and run again") from error
        delay = _backoff_seconds(self._outages)
        log.warning("the database is away (%s); again in %.1f s", _sentence(error), delay)
        self._listener.close()
        self._planner = Planner()  # what it planned last may have been rolled back
        self._listener.wait(delay)

    def _nothing_open(self) -> bool:
        with self.engine.begin() as connection:
            return store.count_open(connection) == 0 and store.plan_batches(connection) == 0

    def _beat(self) -> None:
        """Show that the loop turns; `pypredict health` looks at the file's age."""
        if self.health_file is not None:
            self.health_file.touch()


def _backoff_seconds(failures: int) -> float:
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


def _sentence(error: Exception) -> str:
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split()) or type(cause).__name__
