"""Small trainings for tests: experiments that take seconds, and the command line as a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bundle.verify import Bundle, open_bundle
from pyml.config import Settings
from pyml.experiment.experiment import Experiment
from support.bundles import TINY_EXPERIMENT

PYML = Path(sys.executable).with_name("pyml")
SCALE, *_, LAST = TINY_EXPERIMENT["layers"]
TINY: dict[str, Any] = TINY_EXPERIMENT | {
    "layers": [
        SCALE,
        {"layer": "Conv2D", "filters": 8, "kernel_size": 3, "activation": "relu"},
        {"layer": "MaxPooling2D"},
        {"layer": "Dropout", "rate": 0.1},
        {"layer": "Flatten"},
        LAST,
    ],
}
DIGITS: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "validation": 0.15, "test": 0.2},
    "layers": [{"layer": "Rescaling", "scale": 0.0625}, {"layer": "Flatten"}, {"layer": "Dropout", "rate": 0.1}, LAST],
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "loss": "sparse_categorical_crossentropy",
    "epochs": 2,
    "batch_size": 32,
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({**TINY, **changes})


def write_experiment(directory: Path, document: dict[str, Any], **changes: Any) -> Path:
    path = directory / f"{changes.get('name', document['name'])}.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


def pyml(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYML, *arguments],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "PYML", "GIT_"))}
        | {"WANDB_MODE": "disabled"}
        | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def only_bundle(models: Path, name: str) -> Bundle:
    (path,) = models.glob(f"bundles/{name}-*")
    return open_bundle(path)


def settings_without_wandb(directory: Path) -> Settings:
    """Give settings with all paths in this directory, and with W&B disabled."""
    return Settings(
        models=directory / "models",
        record=directory / "wandb",
        data_dir=directory / "data",
        wandb_mode="disabled",
    )


def recorded_groups(record: Path) -> list[str]:
    """Give the W&B group of each run that is recorded offline in a directory."""
    groups = []
    for run in record.glob("wandb/offline-run-*"):
        inspect: list[str | Path] = [PYML.with_name("wandb"), "leet", "inspect", "--json", run]
        done = subprocess.run(inspect, capture_output=True, text=True, timeout=60, check=True)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        groups += [record["run"]["run_group"] for record in records if record["type"] == "run"]
    return groups
