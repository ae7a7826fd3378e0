"""What of a published bundle goes into its run's record: the model as an artifact, files, pictures, tables."""

import csv
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

from bundle.manifest import (
    DIFF_FILE,
    HISTORY_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    VOCABULARY_FILE,
    ClassMetrics,
    Manifest,
)
from pyml.reports.plots import PLOT_FILES

ARTIFACT_FILES = (MODEL_FILE, MANIFEST_FILE, HISTORY_FILE, VOCABULARY_FILE, DIFF_FILE)  # those that there are
RUN_FILES = (PREDICTIONS_FILE, HISTORY_FILE, DIFF_FILE)
RECORDED_FILES = frozenset((*ARTIFACT_FILES, *RUN_FILES, *PLOT_FILES))
TABLE_ROWS, TABLE_CELLS = 10_000, 500_000  # more W&B does not show; predictions.csv holds all


def log_artifact(run: Any, path: Path, manifest: Manifest) -> None:
    """Record the model and what belongs to it as a version of the artifact of the experiment's name.

    It has the bundle's id as an alias. Which model serves is decided later, in the database, so no alias says it. The
    SDK copies the bytes beside the record, so that a record does not depend on a bundle that may be removed.
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


def log_files(run: Any, path: Path) -> None:
    """Record predictions.csv, the history and the patch as the run's files; copies, where the SDK would put links."""
    for name in RUN_FILES:
        if (path / name).is_file():
            copy = shutil.copyfile(path / name, Path(run.dir) / name)
            run.save(str(copy), base_path=run.dir, policy="now")


def log_pictures(run: Any, path: Path, manifest: Manifest) -> None:
    """Record confusion matrix and curves as images, the classes' figures and the predictions as tables."""
    import wandb

    drawn = {Path(name).stem: path / name for name in PLOT_FILES if (path / name).is_file()}
    pictures = {f"test/{name}": wandb.Image(str(file)) for name, file in drawn.items()}
    tables = {"test/classes": _classes_table(manifest), "test/predictions": _predictions_table(path)}
    run.log({**pictures, **tables})


def _classes_table(manifest: Manifest) -> Any:
    import wandb

    named = zip(manifest.classes, manifest.metrics.per_class, strict=False)
    data = [[name, *figures.model_dump().values()] for name, figures in named]
    return wandb.Table(columns=["class", *ClassMetrics.model_fields], data=data)


def _predictions_table(path: Path) -> Any:
    import wandb

    with (path / PREDICTIONS_FILE).open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        columns: list[str | int] = [*next(rows)]
        shown = islice(rows, min(TABLE_ROWS, TABLE_CELLS // len(columns)))
        data = [[int(sample), label, predicted, *map(float, figures)] for sample, label, predicted, *figures in shown]
    return wandb.Table(columns=columns, data=data)
