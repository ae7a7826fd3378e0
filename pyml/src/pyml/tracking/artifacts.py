"""Add a published bundle to the record of its run: the model as an artifact, files, plots, tables."""

import json
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bundle.manifest import (
    DIFF_FILE,
    HISTORY_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    SERVING_FILE,
    VOCABULARY_FILE,
    ClassMetrics,
    Manifest,
)
from pyml.reports.plots import PLOT_FILES
from pyml.tracking.predictions import read_rows

# Of these, the files that exist.
ARTIFACT_FILES = (MODEL_FILE, SERVING_FILE, MANIFEST_FILE, HISTORY_FILE, VOCABULARY_FILE, DIFF_FILE)
RUN_FILES = (PREDICTIONS_FILE, HISTORY_FILE, DIFF_FILE)
EXPERIMENT_FILE = "experiment.json"
RECORDED_FILES = frozenset((*ARTIFACT_FILES, *RUN_FILES, *PLOT_FILES))
TABLE_ROWS, TABLE_CELLS = 10_000, 500_000  # W&B shows no more; predictions.csv holds all


def log_artifact(run: Any, path: Path, manifest: Manifest) -> None:
    """Record the model and its files as a version of the artifact with the experiment's name.

    The bundle's id is an alias of the version. No alias says which model serves, because the database decides that
    later. The SDK copies the files into the record directory, so a record stays complete if the bundle is removed.
    """
    import wandb

    metadata = {
        "bundle_id": manifest.bundle_id,
        "dataset": manifest.dataset,
        "model_sha256": manifest.files[MODEL_FILE].sha256,
        **manifest.metrics.model_dump(exclude={"per_class", "confusion"}, exclude_none=True),
    }
    artifact = wandb.Artifact(manifest.name, type="model", metadata=metadata)
    for file in (path / name for name in ARTIFACT_FILES):
        if file.is_file():
            artifact.add_file(str(file))
    run.log_artifact(artifact, aliases=["latest", manifest.bundle_id])


def log_files(run: Any, path: Path, manifest: Manifest) -> None:
    """Record predictions.csv, the history, the patch and the experiment as files of the run.

    The files are copied first, because the SDK would make links to the bundle. The experiment has all its values, also
    the default ones; `pyml train` takes the file. The code is the commit of the run and the patch: the SDK's `log_code`
    would also send files that git does not know, which can be private.
    """
    experiment = Path(run.dir) / EXPERIMENT_FILE
    experiment.write_text(json.dumps(manifest.experiment, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    run.save(str(experiment), base_path=run.dir, policy="now")
    for name in RUN_FILES:
        if (path / name).is_file():
            copy = shutil.copyfile(path / name, Path(run.dir) / name)
            run.save(str(copy), base_path=run.dir, policy="now")


def log_plots(run: Any, path: Path, manifest: Manifest, inputs: Sequence[Any] = ()) -> None:
    """Record the plots as images, and the metrics of the classes and the predictions as tables.

    inputs: the cells of the first rows in the column `input`; without them the table has no such column.
    """
    import wandb

    files = {Path(name).stem: path / name for name in PLOT_FILES if (path / name).is_file()}
    plots = {f"test/{name}": wandb.Image(str(file)) for name, file in files.items()}
    tables = {"test/classes": _classes_table(manifest), "test/predictions": _predictions_table(path, inputs)}
    run.log({**plots, **tables})


def _classes_table(manifest: Manifest) -> Any:
    import wandb

    named = zip(manifest.classes, manifest.metrics.per_class, strict=False)
    data = [[name, *metrics.model_dump().values()] for name, metrics in named]
    return wandb.Table(columns=["class", *ClassMetrics.model_fields], data=data)


def _predictions_table(path: Path, inputs: Sequence[Any]) -> Any:
    import wandb

    rows = read_rows(path)
    columns: list[str | int] = [*next(rows)]
    shown = islice(rows, min(TABLE_ROWS, TABLE_CELLS // len(columns)))
    data: list[list[Any]] = [
        [int(sample), label, predicted, *map(float, numbers)] for sample, label, predicted, *numbers in shown
    ]
    if inputs:
        columns.insert(1, "input")
        for number, row in enumerate(data):
            row.insert(1, inputs[number] if number < len(inputs) else None)
    return wandb.Table(columns=columns, data=data)
