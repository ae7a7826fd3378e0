"""A list in the place of one value gives one experiment for each element."""

from typing import Any

import pytest

from pyml import PymlError
from pyml.experiment.grid import GridError, expand_grid, take_share


def document(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": {"name": "digits", "validation": 0.15, "test": 0.2},
        "layers": [{"layer": "Dense", "units": 7}, {"layer": "Dense", "units": 10}],
        "optimizer": {"name": "Adam", "learning_rate": 0.01},
        "epochs": 3,
        **changes,
    }


def names(**changes: Any) -> list[str]:
    return [point["name"] for point in expand_grid(document(**changes))]


def test_a_document_without_a_grid_is_not_changed() -> None:
    assert expand_grid(document()) == [document()]


@pytest.mark.parametrize("other", [[], "text", None, 3, {"layers": 3}, {"layers": [3]}, {"data": 3}])
def test_expand_grid_returns_invalid_documents_unchanged(other: Any) -> None:
    assert expand_grid(other) == [other]


def test_a_list_gives_one_experiment_per_element() -> None:
    points = expand_grid(document(optimizer={"name": "Adam", "learning_rate": [0.01, 0.001]}))
    assert points == [
        document(name="tiny-learning_rate_0.01", optimizer={"name": "Adam", "learning_rate": 0.01}),
        document(name="tiny-learning_rate_0.001", optimizer={"name": "Adam", "learning_rate": 0.001}),
    ]


def test_two_lists_give_every_combination() -> None:
    assert names(epochs=[1, 2], seed=[7, 8]) == [
        "tiny-epochs_1-seed_7",
        "tiny-epochs_1-seed_8",
        "tiny-epochs_2-seed_7",
        "tiny-epochs_2-seed_8",
    ]


def test_optimizers_are_named_by_their_class() -> None:
    optimizers = [{"name": "Adam", "learning_rate": 0.001}, {"name": "SGD", "learning_rate": [0.1, 0.01]}]
    assert names(optimizer=optimizers) == [
        "tiny-optimizer_Adam",
        "tiny-optimizer_SGD-learning_rate_0.1",
        "tiny-optimizer_SGD-learning_rate_0.01",
    ]


def test_the_name_of_the_optimizer_can_be_a_grid() -> None:
    optimizer = {"name": ["Adam", "SGD"], "learning_rate": 0.1}
    assert names(optimizer=optimizer) == ["tiny-optimizer_Adam", "tiny-optimizer_SGD"]


def test_optimizers_of_one_class_are_numbered() -> None:
    optimizers = [{"name": "SGD", "learning_rate": 0.1}, {"name": "SGD", "learning_rate": 0.1, "momentum": 0.9}]
    assert names(optimizer=optimizers) == ["tiny-optimizer_1", "tiny-optimizer_2"]


def test_early_stopping_null_is_a_grid_value() -> None:
    assert names(early_stopping=[None, {"patience": 3}]) == ["tiny-early_stopping_null", "tiny-early_stopping_2"]


def test_the_name_has_the_argument_if_one_layer_varies_it() -> None:
    layers = [{"layer": "Dense", "units": [150, 250]}, {"layer": "Dense", "units": 10}]
    assert names(layers=layers) == ["tiny-units_150", "tiny-units_250"]


def test_the_name_has_the_layer_if_two_layers_vary_an_argument() -> None:
    layers = [{"layer": "Dense", "units": [1, 2]}, {"layer": "Dense", "units": [3, 4]}]
    assert names(layers=layers)[1] == "tiny-layer0_units_1-layer1_units_4"


def test_a_list_argument_of_keras_is_not_a_grid() -> None:
    layers = [{"layer": "Conv2D", "filters": 8, "kernel_size": [3, 3]}]
    assert expand_grid(document(layers=layers)) == [document(layers=layers)]


def test_one_experiment_has_one_dataset() -> None:
    data = {"name": ["digits", "mnist"], "validation": 0.1}
    assert expand_grid(document(data=data)) == [document(data=data)]


def test_arguments_of_the_data_can_be_a_grid() -> None:
    assert names(data={"name": "imdb", "words": [1000, 5000]}) == ["tiny-words_1000", "tiny-words_5000"]


def test_invalid_characters_in_a_grid_name_are_replaced() -> None:
    assert names(loss=["a/b c", "d"], epochs=[1e-5, True]) == [
        "tiny-loss_a_b_c-epochs_1e-05",
        "tiny-loss_a_b_c-epochs_true",
        "tiny-loss_d-epochs_1e-05",
        "tiny-loss_d-epochs_true",
    ]


def test_grid_points_share_no_objects() -> None:
    first, second = expand_grid(document(epochs=[1, 2]))
    first["layers"][0]["units"] = 99
    assert second["layers"][0]["units"] == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": []}, "epochs: the grid is empty"),
        ({"epochs": [[1, 2], 3]}, "epochs: the grid holds a list; write all its values in one list"),
        ({"data": {"x": [[[1]]]}}, "data.x: the grid holds a list"),
        ({"epochs": [1, 1]}, "the grid gives tiny-epochs_1 more than once"),
        ({"epochs": list(range(100)), "seed": list(range(100))}, "more than 1000 points"),
    ],
)
def test_an_invalid_grid_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GridError, match=said):
        expand_grid(document(**changes))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 9])
def test_shares_are_disjoint_and_complete(n: int) -> None:
    shares = [take_share(range(7), f"{i}/{n}") for i in range(n)]
    assert sorted(number for share in shares for number in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_takes_every_nth_experiment_in_order() -> None:
    assert take_share("abcdefg", "1/3") == ["b", "e"]


@pytest.mark.parametrize(
    "share", ["3", "2/2", "4/4", "0/0", "-1/4", "1", "1/2/3", "a/b", "", "1.0/2", "\u0661/2", "0/9999999"]
)
def test_a_share_that_does_not_exist_is_refused(share: str) -> None:
    with pytest.raises(PymlError, match=r"is not I/N with I from 0 to N - 1"):
        take_share([1, 2], share)
