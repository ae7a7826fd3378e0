"""What a bundle came from: its id, the commit, the library versions.

The id is a hash of everything that decides the weights, so "trained already" is a fact that can be looked up before
TensorFlow is imported.
"""

import hashlib
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import bundle
import pyml
from bundle.manifest import GitState
from bundle.publish import bundle_path
from bundle.record import sha256_of_json
from pyml.config import Settings
from pyml.experiment import Experiment

PYML_CODE = ("dataset.py", "experiment.py", "metrics.py", "model.py", "train.py")
BUNDLE_CODE = ("manifest.py", "model.py")


def bundle_id(experiment: Experiment, data_sha256: str) -> str:
    """Name the bundle that this experiment on these arrays gives with the present code, Keras and TensorFlow."""
    installed = versions()
    identity = {
        "experiment": experiment.model_dump(mode="json"),
        "data": data_sha256,
        "code": _code_sha256(),
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


def git_state(settings: Settings) -> GitState:
    """Tell the commit: as the image's build put it into the environment, else as git says of this source tree."""
    if settings.git_commit:
        return GitState(commit=settings.git_commit, dirty=settings.git_dirty)
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return GitState(commit=commit or None, dirty=None if not commit or changes is None else bool(changes))


def versions() -> dict[str, str]:
    """List the versions of what computes and records, without importing any of it."""
    packages = ("keras", "numpy", "scikit-learn", "wandb")
    tensorflow = _version("tensorflow-cpu") or _version("tensorflow") or "unknown"
    found = {package: _version(package) or "unknown" for package in packages}
    return {"python": platform.python_version(), "tensorflow": tensorflow, **found}


def _code_sha256() -> str:
    digest = hashlib.sha256()
    for package, names in ((pyml, PYML_CODE), (bundle, BUNDLE_CODE)):
        for name in names:
            digest.update(Path(str(package.__file__)).with_name(name).read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    source = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", source, *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, no repository, or one of another user
    return done.stdout.strip()
