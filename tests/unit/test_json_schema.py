"""The JSON schema accepts what the trainer accepts, and the one in the repository is current."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyml.experiment.experiment import read_experiments
from pyml.json_schema import experiment_schema

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
SHIPPED = sorted(path for path in EXPERIMENTS.glob("*.json") if path.name != "schema.json")
SCHEMA = experiment_schema()


def test_the_shipped_schema_is_current() -> None:
    said = "pyml schema > experiments/schema.json"
    assert json.loads((EXPERIMENTS / "schema.json").read_text()) == SCHEMA, said


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_each_shipped_experiment_names_the_schema_and_is_valid(path: Path) -> None:
    assert json.loads(path.read_text())["$schema"] == "schema.json"
    names = [experiment.name for experiment in read_experiments(path)]
    assert all(name.startswith(path.stem) for name in names)


def at(*place: str) -> Any:
    found: Any = SCHEMA
    for step in place:
        found = found[step]
    return found


def test_editors_learn_the_names_of_layers_and_optimizers() -> None:
    assert "Conv2D" in at("$defs", "Layer", "properties", "layer", "enum")
    assert "Lambda" not in at("$defs", "Layer", "properties", "layer", "enum")
    assert "Adam" in str(at("$defs", "Optimizer", "properties", "name"))


def test_editors_learn_that_a_value_may_be_a_grid() -> None:
    one, several = at("properties", "epochs", "anyOf")
    assert several == {"type": "array", "items": one, "minItems": 1}
    assert "anyOf" not in at("$defs", "ImageFolder", "properties", "path")


def test_editors_are_told_of_every_key_and_of_no_other() -> None:
    assert at("additionalProperties") is False
    assert {"$schema", "deterministic", "metrics"} <= set(at("properties"))
