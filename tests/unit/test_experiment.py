"""Experiment files: the accepted files, and the one sentence for each mistake."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.bundles import TINY_EXPERIMENT

from pyml import PymlError
from pyml.experiment.experiment import Experiment, check_fits, read_experiments
from pyml.experiment.layers import ALLOWED_OBJECTS

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


OWN = {
    "name": "mine",
    "kind": "image-folder",
    "path": "x",
    "height": 8,
    "width": 8,
    "validation": 0.15,
    "test": 0.2,
}
IMDB = {"name": "imdb", "validation": 0.1, "words": 5000, "length": 400}


def document(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(TINY_EXPERIMENT) | changes


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(document(**changes))


def read_text(directory: Path, text: str) -> Experiment:
    path = directory / "experiment.json"
    path.write_text(text)
    (found,) = read_experiments(path)
    return found


def with_last(**last: Any) -> list[dict[str, Any]]:
    return [*document()["layers"][:-1], {"layer": "Dense", "units": 10, "activation": "softmax", **last}]


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("digits*.json")), ids=lambda path: path.name)
def test_each_digits_experiment_is_valid_and_fits_its_data(path: Path) -> None:
    for shipped in read_experiments(path):
        check_fits(shipped, 10, "uint8")


def test_an_experiment_is_equal_after_the_manifest() -> None:
    original = experiment(early_stopping={"patience": 2}, layers=with_last(kernel_initializer="he_normal"))
    assert Experiment.model_validate(original.model_dump(mode="json")) == original


def test_layer_arguments_are_passed_to_keras_unchanged() -> None:
    layer = experiment(layers=with_last(kernel_initializer="he_normal")).layers[-1]
    assert layer.arguments == {"units": 10, "activation": "softmax", "kernel_initializer": "he_normal"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"absent\.json cannot be read \(No such file or directory\)"):
        read_experiments(tmp_path / "absent.json")


def test_broken_json_is_named_with_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"experiment\.json .*line 2 column 10"):
        read_text(tmp_path, '{"name": "x",\n"epochs" 3}')


def test_a_duplicate_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match="the key epochs occurs twice in one object"):
        read_text(tmp_path, '{"epochs": 3, "name": "x", "epochs": 4}')


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "null", "[" * 100_000])
def test_json_that_is_not_an_object_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PymlError, match="is not a valid experiment"):
        read_text(tmp_path, text)


def test_a_value_of_any_depth_is_refused(tmp_path: Path) -> None:
    """json writes values of a smaller depth than it reads; the limit depends on the depth of the call."""
    for depth in range(900, 1_000):
        with pytest.raises(PymlError, match="is not a valid experiment"):
            read_text(tmp_path, json.dumps(document(x="@")).replace('"@"', "[" * depth + "]" * depth))


def test_the_schema_key_is_ignored(tmp_path: Path) -> None:
    assert read_text(tmp_path, json.dumps(document() | {"$schema": "schema.json"})) == experiment()


def test_a_grid_is_validated_point_by_point(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(document(epochs=[3, 0])))
    with pytest.raises(
        PymlError, match=r"experiment\.json, tiny-epochs_0 of its grid, is not a valid .* epochs: input"
    ):
        read_experiments(path)
    path.write_text(json.dumps(document(epochs=[3, 4])))
    assert [point.epochs for point in read_experiments(path)] == [3, 4]


def test_a_refusal_shortens_a_long_name_of_a_grid(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(document(name="x" * 100_000, epochs=[3, 4])))
    with pytest.raises(PymlError, match=r"xxx\.\.\. of its grid") as raised:
        read_experiments(path)
    assert len(str(raised.value)) < 1_000


def test_a_grid_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(document(name="x" * 75, epochs=[3, 4])))
    with pytest.raises(PymlError, match="name: a name has 1 to 80 characters: letters"):
        read_experiments(path)


def test_a_binary_experiment_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(PymlError, match="is not a valid experiment"):
        read_experiments(path)


def set_in(*place: str | int) -> Callable[[dict[str, Any], Any], None]:
    def change(target: Any, value: Any) -> None:
        for step in place[:-1]:
            target = target[step]
        target[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "value", "said"),
    [
        (set_in("epocs"), 3, "the document: unknown key epocs, did you mean epochs?"),
        (set_in("colour"), 3, "the document: unknown key colour, known are name, data"),
        (set_in("data", "tset"), 0.1, "data.digits: unknown key tset, did you mean test?"),
        (set_in("early_stopping"), {"patience": 0}, "early_stopping.patience: input should be greater than or equal"),
        (set_in("early_stopping"), {"patience": 1, "monitor": "loss"}, "early_stopping.monitor: input should be 'val_"),
        (set_in("layers", 1, "layer"), "Flaten", "layers.1.layer: unknown layer Flaten, did you mean Flatten?"),
        (set_in("layers", 1, "layer"), "Lambda", "layers.1.layer: unknown layer Lambda"),
        (
            set_in("layers", 1, "layer"),
            "MaxPooling3D",
            "layers.1.layer: layer MaxPooling3D is not supported: LiteRT ca",
        ),
        (
            set_in("layers", 1),
            {"layer": "Bidirectional"},
            "layers.1: the layer Bidirectional applies another layer; give i",
        ),
        (
            set_in("layers", 1),
            {"layer": "Dense", "units": 3, "inner": {"layer": "LSTM", "units": 3}},
            "layers.1: the layer Dense does not apply another layer; leave inner out",
        ),
        (set_in("layers", 1), {"units": 3}, "layers.1.layer: field required"),
        (set_in("layers"), [], "layers: tuple should have at least 1 item"),
        (
            set_in("layers", 0),
            {"layer": "Normalization"},
            "layers.0: a Normalization layer does nothing without mean and variance; give both",
        ),
        (set_in("optimizer", "use_ema"), True, "optimizer: use_ema does nothing without ema_overwrite_frequency"),
        (set_in("epochs"), 0, "epochs: input should be greater than or equal to 1"),
        (set_in("epochs"), "3", "epochs: input should be a valid integer"),
        (set_in("batch_size"), 0, "batch_size: input should be greater than or equal to 1"),
        (set_in("loss"), "mse", "loss: input should be 'sparse_categorical_crossentropy'"),
        (set_in("optimizer", "name"), "adam", "optimizer.name: unknown optimizer adam, did you mean Adam?"),
        (set_in("optimizer", "learning_rate"), 0, "optimizer.learning_rate: input should be greater than 0"),
        (set_in("data", "name"), "didgits", "data: unknown dataset didgits, did you mean digits?"),
        (
            set_in("data", "test"),
            0.85,
            "data.digits: validation + test must be below 1, so that training samples are left",
        ),
        (set_in("data", "test"), 0, "data.digits.test: input should be greater than 0"),
        (set_in("data"), "digits", 'data: a dataset is an object, for example {"name": "digits", ...}'),
        (set_in("data"), 5, 'data: a dataset is an object, for example {"name": "digits", ...}'),
        (set_in("data"), {"validation": 0.1}, "data: a dataset needs a name; known are digits, mnist"),
        (
            set_in("data", "name"),
            "zoo",
            "data: unknown dataset zoo, known are digits, mnist, fashion_mnist, imdb; your",
        ),
        (set_in("data", "kind"), "image_folder", "data: unknown kind image_folder, did you mean image-folder?"),
        (set_in("data", "kind"), 3, "data: unknown kind 3, known are image-folder, text-csv, npz, npy"),
        (set_in("data"), {"kind": "npy", "name": "x"}, "data.npy.validation: field required"),
        (set_in("data"), {**OWN, "name": "mnist"}, "data.image-folder.name: mnist is the name of a known dataset"),
        (set_in("data"), {**OWN, "name": "a/b"}, "data.image-folder.name: a name has 1 to 100 characters"),
        (set_in("data"), {**OWN, "path": ""}, "data.image-folder.path: string should have at least 1 character"),
        (set_in("data"), {**OWN, "height": 0}, "data.image-folder.height: input should be greater than or equal to 1"),
        (set_in("data"), {**OWN, "color": "blue"}, "data.image-folder.color: input should be 'grayscale' or 'rgb'"),
        (set_in("data"), {**OWN, "test": 0.9}, "data.image-folder: validation + test must be below 1, so"),
        (set_in("data"), {**IMDB, "words": 4}, "data.imdb.words: input should be greater than or equal to 5"),
        (set_in("data"), {**IMDB, "words": 1_000_001}, "data.imdb.words: input should be less than or equal"),
        (set_in("data"), {**IMDB, "length": 0}, "data.imdb.length: input should be greater than or equal to 1"),
        (set_in("data"), {**IMDB, "test": 0.1}, "data.imdb: unknown key test, known are validation, split_seed, name"),
        (set_in("data"), {"name": "mnist", "validation": 1.0}, "data.mnist.validation: input should be less than 1"),
        (
            set_in("metrics"),
            ["AUC", "accuracy"],
            "the document: the metrics AUC, Precision and Recall need one-hot labels",
        ),
        (set_in("metrics"), ["Precision"], "metrics: name accuracy, and each metric only once"),
        (set_in("metrics"), ["accuracy", "accuracy"], "metrics: name accuracy, and each metric only once"),
        (set_in("metrics"), ["speed"], "metrics.0: input should be 'accuracy', 'AUC', 'Precision' or 'Recall'"),
        (set_in("deterministic"), "yes", "deterministic: input should be a valid boolean"),
        (set_in("layers", 0, "scale"), float("nan"), "it holds NaN or infinity; finite numbers are needed"),
        (set_in("layers", 0, "scale"), float("inf"), "it holds NaN or infinity; finite numbers are needed"),
        (set_in("seed"), [], "seed: the grid is empty"),
        (set_in("name"), "../elsewhere", "name: a name has 1 to 80 characters: letters"),
        (set_in("name"), "x" * 81, "name: a name has 1 to 80 characters: letters"),
        (set_in("seed"), -1, "seed: input should be greater than or equal to 0"),
    ],
)
def test_a_mistake_is_reported_with_file_place_and_need(
    tmp_path: Path, change: Callable[[dict[str, Any], Any], None], value: Any, said: str
) -> None:
    mistaken = document()
    change(mistaken, value)
    with pytest.raises(PymlError) as raised:
        read_text(tmp_path, json.dumps(mistaken))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'experiment.json'} is not a valid experiment: {said}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("loss", "last", "n_classes"),
    [
        ("sparse_categorical_crossentropy", {}, 10),
        ("categorical_crossentropy", {}, 10),
        ("sparse_categorical_crossentropy", {"units": 2}, 2),
        ("binary_crossentropy", {"units": 1, "activation": "sigmoid"}, 2),
    ],
)
def test_a_last_layer_for_loss_and_classes_is_accepted(loss: str, last: dict[str, Any], n_classes: int) -> None:
    check_fits(experiment(loss=loss, layers=with_last(**last)), n_classes, "uint8")


@pytest.mark.parametrize(
    ("loss", "last", "n_classes", "said"),
    [
        ("sparse_categorical_crossentropy", {"units": 9}, 10, r"needs Dense\(units=10, activation='softmax'\)"),
        ("categorical_crossentropy", {"activation": "sigmoid"}, 10, r"needs Dense\(units=10, activation='softmax'\)"),
        ("sparse_categorical_crossentropy", {"layer": "Conv2D"}, 10, r"the last layer is Conv2D\("),
        ("binary_crossentropy", {"units": 2}, 2, r"needs Dense\(units=1, activation='sigmoid'\)"),
        ("binary_crossentropy", {"units": 1, "activation": "sigmoid"}, 10, "needs 2 classes, digits has 10"),
    ],
)
def test_a_wrong_last_layer_is_refused_with_what_is_needed(
    loss: str, last: dict[str, Any], n_classes: int, said: str
) -> None:
    with pytest.raises(PymlError, match=said):
        check_fits(experiment(loss=loss, layers=with_last(**last)), n_classes, "uint8")


def test_raw_images_without_rescaling_are_refused() -> None:
    with pytest.raises(PymlError, match="uint8 images need Rescaling as the first layer"):
        check_fits(experiment(layers=document()["layers"][1:]), 10, "uint8")


def test_whole_numbers_need_no_rescaling() -> None:
    check_fits(experiment(layers=document()["layers"][1:]), 10, "int32")


def embedded(*first: dict[str, Any]) -> Experiment:
    return experiment(layers=[*first, {"layer": "Flatten"}, document()["layers"][-1]])


@pytest.mark.parametrize("input_dim", [50, 51])
def test_an_embedding_for_all_token_numbers_is_accepted(input_dim: int) -> None:
    check_fits(embedded({"layer": "Embedding", "input_dim": input_dim, "output_dim": 2}), 10, "int32", n_words=50)


@pytest.mark.parametrize(
    "first",
    [
        {"layer": "Dense", "units": 3},
        {"layer": "Embedding", "input_dim": 49, "output_dim": 2},
        {"layer": "Embedding", "output_dim": 2},
        {"layer": "Embedding", "input_dim": "50", "output_dim": 2},
    ],
)
def test_a_missing_or_small_embedding_is_refused(first: dict[str, Any]) -> None:
    with pytest.raises(
        PymlError, match=r"token numbers of 50 words need Embedding\(input_dim=50, ...\) as the first layer"
    ):
        check_fits(embedded(first), 10, "int32", n_words=50)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"a\\u0000b"', "a text holds a NUL character; remove it"),
        ("NaN", "finite"),
        ("1e999", "finite"),
        ("1" * 30, "a whole number needs more than 64 bits"),
    ],
)
def test_a_value_that_no_bundle_can_hold_is_refused(tmp_path: Path, value: str, said: str) -> None:
    text = json.dumps(document(layers=[{"layer": "Rescaling", "scale": "HERE"}, *document()["layers"][1:]]))
    with pytest.raises(PymlError, match=f"is not a valid experiment: .*{said}"):
        read_text(tmp_path, text.replace('"HERE"', value))


@pytest.mark.parametrize(
    "value",
    [
        {"class_name": "__lambda__", "config": {"value": ["4wEA", None, None]}},
        {"module": "os", "class_name": "system", "config": {}, "registered_name": None},
        {"class_name": "system", "config": {"command": "true"}},
        {"module": "os", "class_name": "L2", "config": {"l2": 0.01}},
        {"class_name": "L2", "config": {"l2": {"class_name": "__lambda__", "config": {}}}},
        {"class_name": "L2", "config": "l2"},
        {"class_name": "L2", "config": {"l2": [{"class_name": "__lambda__"}]}},
        [{"class_name": "__lambda__", "config": {}}],
    ],
)
def test_an_argument_that_names_other_code_is_refused(value: object) -> None:
    for argument in ("activation", "kernel_initializer"):
        with pytest.raises(ValidationError, match=f"the argument {argument} is an object that is not allowed"):
            experiment(layers=with_last(**{argument: value}))
    with pytest.raises(ValidationError, match="the argument beta_1 is an object that is not allowed"):
        experiment(optimizer={"name": "Adam", "learning_rate": 0.1, "beta_1": value})


def test_allowed_objects_are_those_of_keras() -> None:
    import keras

    known = {
        name
        for module in (keras.initializers, keras.regularizers, keras.constraints)
        for name, value in vars(module).items()
        if isinstance(value, type) and name not in ("Initializer", "Regularizer", "Constraint", "STFT")
    }
    assert ALLOWED_OBJECTS <= known
    layers = with_last(kernel_regularizer={"class_name": "L2", "config": {"l2": 0.01}})
    assert experiment(layers=layers).layers[-1].arguments["kernel_regularizer"]


def test_experiment_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "large.json").write_bytes(b" " * (2**24 + 1))
    for name, said in (("fifo", "not a regular file"), ("zero", "not a regular file"), ("large", "is larger than")):
        with pytest.raises(PymlError, match=rf"{name}\.json .*{said}"):
            read_experiments(tmp_path / f"{name}.json")
