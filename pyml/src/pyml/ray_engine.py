"""Spread experiments over a Ray cluster: one process for each experiment, which trains and publishes it.

Nothing is proposed here: afterwards the command goes its ordinary way, finds all bundles published, and proposes the
best. What is on the models volume counts, not what a task returns. If a node dies, Ray runs its task on another node;
an experiment that is published already is not trained again.
"""

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from bundle import BundleError
from bundle.messages import one_line
from bundle.ray_cluster import ray_cluster
from bundle.terminal import log_to_stderr
from pyml import PymlError
from pyml.config import Settings, read_settings
from pyml.datasets.load import DatasetCache
from pyml.experiment.experiment import Experiment
from pyml.process import Stopped, raise_on_signals
from pyml.training.bundle_id import bundle_id, published_runs
from pyml.training.train import train

log = logging.getLogger("pyml")

LOOK_SECONDS = 0.5  # how often a signal is looked for
MAX_DEATHS = 3  # a process that dies more often has a cause of its own, such as too little memory


def train_on_ray(
    experiments: Sequence[Experiment], settings: Settings, datasets: DatasetCache, address: str | None
) -> dict[str, str]:
    """Train what is not published yet. Return errors by experiment name. Raises BundleError without a cluster.

    The token of W&B is not sent: each node reads WANDB_API_KEY from its own environment.
    """
    pending = [experiment for experiment in experiments if not _is_published(experiment, settings, datasets)]
    if not pending:
        return {}
    sent = settings.model_dump(exclude={"wandb_api_key"})
    problems: dict[str, str] = {}
    with ray_cluster(address):
        import ray

        task = ray.remote(num_cpus=1, max_calls=1, max_retries=MAX_DEATHS)(_train_one)
        level = log.getEffectiveLevel()
        names = {task.remote(one.model_dump_json(), sent, str(Path.cwd()), level): one.name for one in pending}
        stops: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):  # an exception inside ray.wait would become SystemExit(1)
            signal.signal(number, lambda number, _: stops.append(number))
        while names and not stops:
            for done in ray.wait(list(names), timeout=LOOK_SECONDS)[0]:
                problems[names.pop(done)] = _problem(done)
    raise_on_signals()
    if stops:
        raise Stopped(stops[0])
    published = {one.name for one in pending if _is_published(one, settings, datasets)}
    return {
        name: problem or f"experiment {name}: its bundle is not in {settings.models}; all nodes need the same directory"
        for name, problem in problems.items()
        if name not in published
    }


def _train_one(experiment: str, sent: dict[str, object], directory: str, level: int) -> str:
    """Train one experiment in a process of a node; return the error, or an empty text."""
    log_to_stderr("%(message)s", logging.WARNING, as_json=os.environ.get("PYML_LOG") == "json")
    log.setLevel(level)
    try:
        os.chdir(directory)
    except OSError as error:
        return f"{directory} cannot be used on this machine ({error.strerror}); all machines need the same directories"
    try:
        train(Experiment.model_validate_json(experiment), read_settings().model_copy(update=sent))
    except (PymlError, BundleError) as error:
        return str(error)
    return ""


def _problem(done: object) -> str:
    import ray

    try:
        return str(ray.get(done))
    except ray.exceptions.RayError as error:  # the process died too often, or has a bug
        return one_line(error)


def _is_published(experiment: Experiment, settings: Settings, datasets: DatasetCache) -> bool:
    return bool(published_runs(settings.models, bundle_id(experiment, datasets.get(experiment.data).fingerprint)))
