"""Name a bundle by everything that decides its weights and its metrics.

The name is known before TensorFlow is imported, so "trained already" is a look at the models volume.
"""

import hashlib
import re
from importlib.resources import files
from pathlib import Path

from bundle.document import sha256_of_json
from bundle.publish import bundle_path
from pyml.experiment.experiment import Experiment
from pyml.provenance import versions

# The code that decides weights or metrics: whole packages. What only shows or sends lies elsewhere.
HASHED_PACKAGES = (
    "bundle.inference",
    "bundle.inputs",
    "pyml.datasets",
    "pyml.evaluation",
    "pyml.experiment",
    "pyml.training",
)


def bundle_id(experiment: Experiment, data_sha256: str) -> str:
    """Name the bundle that this experiment on these arrays gives with the present code, Keras and TensorFlow."""
    installed = versions()
    identity = {
        "experiment": experiment.model_dump(mode="json", exclude={"promote_if"}),  # it decides neither
        "data": data_sha256,
        "code": code_sha256(),
        "keras": installed["keras"],
        "tensorflow": installed["tensorflow"],
    }
    return f"{experiment.name}-{sha256_of_json(identity)[:12]}"


def published_runs(models: Path, bundle_id: str) -> list[str]:
    """List what is published of this id, oldest first: itself, then its forced re-runs `<id>-run2`, `<id>-run3`, ..."""
    reruns = {
        int(match[1]): path.name
        for path in bundle_path(models, bundle_id).parent.glob(f"{bundle_id}-run*")
        if (match := re.fullmatch(re.escape(bundle_id) + r"-run(\d+)", path.name))
    }
    first = [bundle_id] if bundle_path(models, bundle_id).exists() else []
    return first + [reruns[number] for number in sorted(reruns)]


def next_run(published: list[str], bundle_id: str) -> str:
    """Name the next run of this id: a forced re-run never overwrites a bundle."""
    if not published:
        return bundle_id
    last = published[-1].removeprefix(bundle_id).removeprefix("-run")
    return f"{bundle_id}-run{int(last or 1) + 1}"


def code_sha256() -> str:
    """Hash every module of HASHED_PACKAGES, with its name."""
    digest = hashlib.sha256()
    for package in HASHED_PACKAGES:
        for module in sorted(files(package).iterdir(), key=lambda module: module.name):
            if module.name.endswith(".py"):
                digest.update(f"{package} {module.name}\n".encode())
                digest.update(module.read_bytes())
    return digest.hexdigest()
