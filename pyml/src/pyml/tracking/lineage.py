"""Add the dataset to the record, as the input of the run: dataset -> run -> model. No sample goes into the record."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyml.datasets.dataset import Dataset

DATASET_FILE = "dataset.json"


def use_dataset(run: Any, dataset: "Dataset") -> None:
    """Record the dataset as an artifact that the run uses: one JSON file with hashes, counts and class names.

    The same data give the same file, so runs on the same data use the same version. The name begins with `dataset-`,
    because W&B refuses an artifact with the name of another type's artifact: an experiment can be named as its dataset.
    """
    import wandb

    facts = _facts(dataset)
    artifact = wandb.Artifact(f"dataset-{dataset.name}", type="dataset", metadata=facts)
    with artifact.new_file(DATASET_FILE, "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1, sort_keys=True)
    # What `run.use_artifact` does for a new artifact. That method itself refuses to work in an offline run.
    run._log_artifact(
        artifact, aliases=[f"sha256-{dataset.fingerprint[:12]}"], is_user_created=True, use_after_commit=True
    )


def _facts(dataset: "Dataset") -> dict[str, Any]:
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        "name": dataset.name,
        "kind": dataset.preprocessing.kind,
        "data_sha256": dataset.fingerprint,
        "test_sha256": dataset.test_sha256,
        "dtype": dataset.input.dtype,
        "shape": list(dataset.input.shape),
        "classes": list(dataset.classes),
        "samples": {name: len(split.y) for name, split in splits.items()},
    }
