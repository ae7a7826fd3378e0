"""Compute the id of a bundle: a hash of everything that decides its weights and its metrics.

The id is known before TensorFlow is imported, so a training that is published already is found at once.
"""

import hashlib
import re
from importlib.resources import files
from pathlib import Path

from bundle.document import sha256_of_json
from bundle.publish import bundle_path
from pyml.experiment.experiment import Experiment
from pyml.provenance import versions

# The packages whose code decides weights or metrics. Code that only shows or uploads is in other packages.
HASHED_PACKAGES = (
    "bundle.inference",
    "bundle.inputs",
    "pyml.datasets",
    "pyml.evaluation",
    "pyml.experiment",
    "pyml.training",
)


def bundle_id(experiment: Experiment, data_sha256: str) -> str:
    """Give the id of the bundle for an experiment, a dataset, the current code, Keras and TensorFlow."""
    installed = versions()
    identity = {
        "experiment": experiment.model_dump(mode="json", exclude={"promote_if"}),  # it changes no weight and no metric
        "data": data_sha256,
        "code": code_sha256(),
        "keras": installed["keras"],
        "tensorflow": installed["tensorflow"],
        "litert": installed["ai-edge-litert"],
    }
    return f"{experiment.name}-{sha256_of_json(identity)[:12]}"


def published_runs(models: Path, bundle_id: str) -> list[str]:
    """List the published bundles of this id, oldest first: `<id>`, then forced reruns `<id>-run2`, `<id>-run3`, ..."""
    reruns = {
        int(match[1]): path.name
        for path in bundle_path(models, bundle_id).parent.glob(f"{bundle_id}-run*")
        if (match := re.fullmatch(re.escape(bundle_id) + r"-run(\d+)", path.name))
    }
    first = [bundle_id] if bundle_path(models, bundle_id).exists() else []
    return first + [reruns[number] for number in sorted(reruns)]


def next_run(published: list[str], bundle_id: str) -> str:
    """Give the name of the next run of this id, so that a forced rerun never overwrites a bundle."""
    if not published:
        return bundle_id
    last = published[-1].removeprefix(bundle_id).removeprefix("-run")
    return f"{bundle_id}-run{int(last or 1) + 1}"


def code_sha256() -> str:
    """Hash the name and content of every module of HASHED_PACKAGES."""
    digest = hashlib.sha256()
    for package in HASHED_PACKAGES:
        for module in sorted(files(package).iterdir(), key=lambda module: module.name):
            if module.name.endswith(".py"):
                digest.update(f"{package} {module.name}\n".encode())
                digest.update(module.read_bytes())
    return digest.hexdigest()
