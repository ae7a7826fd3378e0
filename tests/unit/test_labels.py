"""Labels of what is loaded are classes of the model, by name or number, or are mapped to them."""

import logging
from pathlib import Path

import numpy as np
import pytest

from pypredict.labels import LabelError, Labelling, read_label_map

CLASSES = ("cat", "dog", "snake")
PATH = Path("photos")


def label_map(tmp_path: Path, text: str) -> Labelling:
    (tmp_path / "labels.txt").write_bytes(text.encode())
    return read_label_map(tmp_path / "labels.txt")


def test_labels_are_numbered_as_the_models_classes() -> None:
    assert Labelling().number({"snake", "cat"}, CLASSES, PATH) == {"snake": 2, "cat": 0}


def test_labels_that_are_no_classes_are_named_with_the_classes() -> None:
    with pytest.raises(LabelError) as raised:
        Labelling().number(["snakes", "cat", "cats"], CLASSES, PATH)
    assert str(raised.value) == (
        "photos holds labels that are no classes of the model: cats, snakes; its classes are cat, dog, snake; "
        "give --label-map FILE with lines such as cats=cat, or --ignore-labels"
    )


def test_only_ten_of_many_labels_are_named() -> None:
    with pytest.raises(LabelError, match=r"x00, .*, x09 and 5 more; its classes"):
        Labelling().number([f"x{number:02}" for number in range(15)], CLASSES, PATH)


def test_a_label_map_makes_classes_of_labels(tmp_path: Path) -> None:
    mapped = label_map(tmp_path, "\ufeff# plurals\r\n\r\ncats=cat\r\n  snakes = snake \r\n")
    assert mapped.number(["cats", "snakes", "dog"], CLASSES, PATH) == {"cats": 0, "snakes": 2, "dog": 1}


def test_a_label_that_neither_the_map_nor_the_model_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no classes of the model: birds"):
        label_map(tmp_path, "cats=cat").number(["cats", "birds"], CLASSES, PATH)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cats=cat\nsnakes\n", "line 2: 'snakes' is not label=class, for example cats=cat"),
        ("=cat", "line 1: '=cat' is not label=class"),
        ("# a\n\ncats=", "line 3: 'cats=' is not label=class"),
        ("cats=cat\ncats=dog", "line 2: cats is mapped to cat already"),
        ("# nothing\n", "maps no label; lines label=class are needed"),
    ],
)
def test_a_bad_line_of_a_label_map_is_named_by_its_number(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LabelError, match=f"labels.txt.*{said}"):
        label_map(tmp_path, text)


@pytest.mark.parametrize("content", [None, b"caf\xe9=cat"])
def test_a_label_map_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(LabelError, match=r"labels\.txt cannot be read \((No such file|not UTF-8).*label=class"):
        read_label_map(tmp_path / "labels.txt")


def test_a_label_map_to_something_that_is_no_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"labels\.txt: birds=bird maps to no class of the model; its classes are cat"):
        label_map(tmp_path, "cats=cat\nbirds=bird").number(["cats"], CLASSES, PATH)


def test_lines_of_a_label_map_that_no_source_used_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapped = label_map(tmp_path, "cats=cat\nsnakes=snake\nbirds=dog")
    for labels in (["cats"], ["snakes"]):
        mapped.number(labels, CLASSES, PATH)
    with caplog.at_level(logging.WARNING):
        mapped.warn_of_unused()
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "no input has the label birds; check the spelling"
    ]


def test_ignored_labels_are_not_looked_at() -> None:
    assert Labelling(ignore=True).number(["birds"], CLASSES, PATH) is None
    assert Labelling(ignore=True).number_array(np.array([1j]), 9, CLASSES, PATH) is None


def numbered(y: list[object] | np.ndarray, classes: tuple[str, ...] = CLASSES, **mapping: str) -> list[int]:
    array = np.asarray(y)
    numbers = Labelling(mapping=mapping).number_array(array, len(array), classes, PATH)
    assert numbers is not None
    assert numbers.dtype == np.int32
    return numbers.tolist()


def test_names_in_an_array_are_classes() -> None:
    assert numbered(["snake", "cat", "snake"]) == [2, 0, 2]
    with pytest.raises(LabelError, match="no classes of the model: bird;"):
        numbered(["cat", "bird"])


def test_numbers_count_the_classes_of_a_model_that_has_names() -> None:
    assert numbered([2, 0, 2]) == [2, 0, 2]
    assert numbered([[0, 0, 1], [1, 0, 0]]) == [2, 0]


def test_numbers_are_the_classes_of_a_model_that_was_trained_on_numbers() -> None:
    assert numbered([7, -1, 30, 7], ("-1", "7", "30")) == [1, 0, 2, 1]
    assert numbered([[0, 1, 0], [0, 0, 1]], ("-1", "7", "30")) == [1, 2]
    with pytest.raises(LabelError, match="no classes of the model: 0; its classes are -1, 7, 30"):
        numbered([0, 7], ("-1", "7", "30"))


def test_numbers_are_mapped_where_there_is_a_label_map() -> None:
    assert numbered([5, 6, 5], **{"5": "dog", "6": "cat"}) == [1, 0, 1]


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([0, 3], "labels from 0 to 3; the model has 3: cat, dog, snake, counted from 0"),
        ([-1, 2], "labels from -1 to 2"),
        ([[0, 1], [1, 0]], "one-hot labels of 2 classes; the model has 3: cat, dog, snake"),
    ],
)
def test_numbers_of_no_class_are_refused(y: list[object], said: str) -> None:
    with pytest.raises(LabelError, match=said):
        numbered(y)
