"""The JSON schema accepts the files that the trainer accepts; the schema in the repository is current."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyml.experiment.experiment import read_experiments
from pyml.json_schema import experiment_schema

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
EXPERIMENT_FILES = sorted(path for path in EXPERIMENTS.glob("*.json") if path.name != "schema.json")
SCHEMA = experiment_schema()


def test_the_schema_in_the_repository_is_current() -> None:
    advice = "run: pyml schema > experiments/schema.json"
    assert json.loads((EXPERIMENTS / "schema.json").read_text()) == SCHEMA, advice


@pytest.mark.parametrize("path", EXPERIMENT_FILES, ids=lambda path: path.name)
def test_each_experiment_file_names_the_schema_and_is_valid(path: Path) -> None:
    assert json.loads(path.read_text())["$schema"] == "schema.json"
    names = [experiment.name for experiment in read_experiments(path)]
    assert all(name.startswith(path.stem) for name in names)


def at(*place: str) -> Any:
    found: Any = SCHEMA
    for key in place:
        found = found[key]
    return found


def test_the_schema_lists_the_names_of_layers_and_optimizers() -> None:
    assert "Conv2D" in at("$defs", "Layer", "properties", "layer", "enum")
    assert "Lambda" not in at("$defs", "Layer", "properties", "layer", "enum")
    assert "Adam" in str(at("$defs", "Optimizer", "properties", "name"))


def test_the_schema_allows_grids() -> None:
    one, several = at("properties", "epochs", "anyOf")
    assert several == {"type": "array", "items": one, "minItems": 1}
    assert "anyOf" not in at("$defs", "ImageFolder", "properties", "path")


def test_the_schema_has_every_key_and_refuses_others() -> None:
    assert at("additionalProperties") is False
    assert {"$schema", "deterministic", "metrics"} <= set(at("properties"))
