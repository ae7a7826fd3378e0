"""The JSON schema of experiment files (`experiments/schema.json`), made from the classes that validate the files."""

from typing import Any

from pyml.experiment.data_spec import Digits, ImageFolder, Imdb, Mnist, Npy, Npz, TextCsv
from pyml.experiment.experiment import OPTIMIZERS, EarlyStopping, Experiment, Optimizer
from pyml.experiment.grid import FIXED_DATA_KEYS, GRID_KEYS
from pyml.experiment.layers import ALLOWED_LAYERS

DATA_PARTS = (Digits, Mnist, Imdb, ImageFolder, TextCsv, Npz, Npy)


def experiment_schema() -> dict[str, Any]:
    """Make the schema of an experiment file: pydantic's schema, the names of layers and optimizers, and grids."""
    schema = Experiment.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["$schema"] = {"type": "string", "description": "The path of this schema, for editors."}
    parts = schema["$defs"]
    parts["Layer"]["properties"]["layer"]["enum"] = sorted(ALLOWED_LAYERS)
    parts["Optimizer"]["properties"]["name"]["enum"] = sorted(OPTIMIZERS)
    _allow_lists(schema["properties"], [key for key in GRID_KEYS if key != "data"])
    for part in (Optimizer, EarlyStopping, *DATA_PARTS):
        properties = parts[part.__name__]["properties"]
        fixed = FIXED_DATA_KEYS if part in DATA_PARTS else ()
        _allow_lists(properties, [key for key in properties if key not in fixed])
    return schema


def _allow_lists(properties: dict[str, Any], keys: list[str]) -> None:
    """Allow a grid for these keys: a list of the values that are valid for the key."""
    for key in keys:
        one = properties[key]
        outside = {name: one[name] for name in ("default", "description", "title") if name in one}
        value = {name: content for name, content in one.items() if name not in outside}
        properties[key] = {**outside, "anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
