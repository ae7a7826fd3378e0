"""Keep several workers alive on a Ray cluster. PostgreSQL decides which worker predicts what, as without Ray.

Each worker is an actor, a process of its own. If it dies, Ray starts it again, on another node if need be. The actors
get the variables of the command (PG*, PYPREDICT_*), but no password: Ray keeps what it sends in its records.
"""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from bundle.ray_cluster import ray_cluster
from pypredict import PypredictError
from pypredict.cli_context import explain_error, make_worker, open_database, set_verbose, start_log
from pypredict.config import Settings, read_settings
from pypredict.database import read_address
from pypredict.listen import Stop
from pypredict.run_log import log_start

log = logging.getLogger("pypredict")

STOP_SECONDS = 60  # the longest wait for the current jobs at a stop
PAUSE_SECONDS = 2  # before a worker that ended with an error is started again


class RayWorker:
    """One worker in a process of its own. `stop` is called in another thread than `run`."""

    def __init__(self, directory: str, environment: dict[str, str], *, verbose: bool) -> None:
        """directory: where the command was started; environment: its variables."""
        self._directory = directory
        os.environ.update(environment)
        start_log()
        set_verbose(verbose)
        self._stop = Stop()

    def run(self, until_empty: bool) -> str:
        """Predict until `stop`, or until no input is pending; return the error as one sentence, or an empty text."""
        try:
            os.chdir(self._directory)
        except OSError as error:
            return f"{self._directory} cannot be used on this machine ({error.strerror}); all machines need it"
        try:
            settings = read_settings()
            with open_database(settings, wait=True) as engine:
                worker = make_worker(engine, settings, None, self._stop)
                log_start(engine, worker.name)
                worker.run(until_empty=until_empty)
                worker.run_log.write_total(nothing="")
        except Exception as error:
            log.debug("the worker ended", exc_info=True)
            return explain_error(error) or f"{type(error).__name__}: {error}"
        return ""

    def stop(self) -> None:
        """End after the current job."""
        self._stop.set()


def run_on_ray(
    settings: Settings, workers: int, address: str | None, stop: Stop, *, until_empty: bool, verbose: bool
) -> None:
    """Keep this many workers alive until `stop` is set, or with until_empty until no input is pending.

    Raises BundleError without a cluster, and with until_empty PypredictError with the errors of the workers.
    """
    environment = sent_environment(settings)
    with ray_cluster(address):
        import ray

        for number in (signal.SIGTERM, signal.SIGINT):  # after ray.init, which sets its own handler
            signal.signal(number, stop.on_signal)
        actor = ray.remote(num_cpus=0, max_concurrency=2, max_restarts=-1, max_task_retries=-1)(RayWorker)
        spread = actor.options(scheduling_strategy="SPREAD")
        actors = [spread.remote(str(Path.cwd()), environment, verbose=verbose) for _ in range(workers)]
        problems = _watch(actors, stop, until_empty)
    if problems:
        raise PypredictError("; ".join(dict.fromkeys(problems)))


def sent_environment(settings: Settings) -> dict[str, str]:
    """Give the variables that the workers need. Raises PypredictError if one of them holds a password."""
    if os.environ.get("PGPASSWORD") or "password" in read_address(settings.database_url):
        raise PypredictError(
            "PGPASSWORD or DATABASE_URL holds a password, which Ray would keep in its records; write it to a file that "
            "PGPASSFILE names"
        )
    sent = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(("PG", "PYPREDICT_")) and name != "PYPREDICT_HEALTH_FILE") or name == "DATABASE_URL"
    }
    return sent | {"PYPREDICT_MODELS": str(settings.models)}


def _watch(actors: list[Any], stop: Stop, until_empty: bool) -> list[str]:
    """Start each worker again when it ends, except with until_empty; return the errors of the workers that ended."""
    import ray

    running = {actor.run.remote(until_empty): actor for actor in actors}
    problems: list[str] = []
    while running and not stop.is_set():
        for done in ray.wait(list(running), timeout=0.5)[0]:
            actor, problem = running.pop(done), ray.get(done)
            if problem and until_empty:
                problems.append(problem)
            elif not until_empty:
                log.error("a worker ended and is started again: %s", problem)
                time.sleep(PAUSE_SECONDS)
                running[actor.run.remote(until_empty)] = actor
    if running:
        ray.get([actor.stop.remote() for actor in running.values()], timeout=STOP_SECONDS)
        ray.wait(list(running), num_returns=len(running), timeout=STOP_SECONDS)
    return problems
