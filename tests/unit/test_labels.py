"""Labels of a source are classes of the model, by name or number, or a label map maps them to classes."""

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


def test_labels_get_the_numbers_of_the_models_classes() -> None:
    assert Labelling().class_numbers({"snake", "cat"}, CLASSES, PATH) == {"snake": 2, "cat": 0}


def test_labels_that_are_not_classes_are_named() -> None:
    with pytest.raises(LabelError) as raised:
        Labelling().class_numbers(["snakes", "cat", "cats"], CLASSES, PATH)
    assert str(raised.value) == (
        "photos holds labels that are not classes of the model: cats, snakes; its classes are cat, dog, snake; "
        "give --label-map FILE with lines such as cats=cat, or --ignore-labels"
    )


def test_only_ten_of_many_labels_are_named() -> None:
    with pytest.raises(LabelError, match=r"x00, .*, x09 and 5 more; its classes"):
        Labelling().class_numbers([f"x{number:02}" for number in range(15)], CLASSES, PATH)


def test_a_label_map_converts_labels_to_classes(tmp_path: Path) -> None:
    mapped = label_map(tmp_path, "\ufeff# plurals\r\n\r\ncats=cat\r\n  snakes = snake \r\n")
    assert mapped.class_numbers(["cats", "snakes", "dog"], CLASSES, PATH) == {"cats": 0, "snakes": 2, "dog": 1}


def test_a_label_outside_map_and_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="not classes of the model: birds"):
        label_map(tmp_path, "cats=cat").class_numbers(["cats", "birds"], CLASSES, PATH)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cats=cat\nsnakes\n", "line 2: 'snakes' is not label=class, for example cats=cat"),
        ("=cat", "line 1: '=cat' is not label=class"),
        ("# a\n\ncats=", "line 3: 'cats=' is not label=class"),
        ("cats=cat\ncats=dog", "line 2: cats is already mapped to cat"),
        ("# nothing\n", "maps no label; lines label=class are needed"),
    ],
)
def test_an_invalid_line_of_a_label_map_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LabelError, match=f"labels.txt.*{said}"):
        label_map(tmp_path, text)


@pytest.mark.parametrize("content", [None, b"caf\xe9=cat"])
def test_an_unreadable_label_map_is_named_in_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(LabelError, match=r"labels\.txt cannot be read \((No such file|not UTF-8).*label=class"):
        read_label_map(tmp_path / "labels.txt")


def test_a_label_map_to_an_unknown_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"labels\.txt: birds=bird does not map to a class of the model; its classes "):
        label_map(tmp_path, "cats=cat\nbirds=bird").class_numbers(["cats"], CLASSES, PATH)


def test_unused_lines_of_a_label_map_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapped = label_map(tmp_path, "cats=cat\nsnakes=snake\nbirds=dog")
    for labels in (["cats"], ["snakes"]):
        mapped.class_numbers(labels, CLASSES, PATH)
    with caplog.at_level(logging.WARNING):
        mapped.warn_of_unused()
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "no input has the label birds; check the spelling"
    ]


def test_a_used_line_of_a_refused_source_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapped = label_map(tmp_path, "cats=cat")
    with pytest.raises(LabelError, match="mauve"):
        mapped.class_numbers(["cats", "mauve"], CLASSES, PATH)
    with caplog.at_level(logging.WARNING):
        mapped.warn_of_unused()
    assert caplog.records == []


def test_ignored_labels_are_not_read() -> None:
    assert Labelling(ignore=True).class_numbers(["birds"], CLASSES, PATH) is None
    assert Labelling(ignore=True).array_class_numbers(np.array([1j]), 9, CLASSES, PATH) is None


def numbered(
    y: list[object] | np.ndarray, classes: tuple[str, ...] = CLASSES, mapping: dict[str, str] | None = None
) -> list[int]:
    array = np.asarray(y)
    numbers = Labelling(mapping=mapping or {}).array_class_numbers(array, len(array), classes, PATH)
    assert numbers is not None
    assert numbers.dtype == np.int32
    return [int(number) for number in numbers]


def test_names_in_an_array_are_class_names() -> None:
    assert numbered(["snake", "cat", "snake"]) == [2, 0, 2]
    with pytest.raises(LabelError, match="not classes of the model: bird;"):
        numbered(["cat", "bird"])


def test_label_with_half_of_a_character_is_refused_in_one_sentence() -> None:
    labels = np.array([ord("c"), 0xDE77], np.uint32).view("<U1")
    with pytest.raises(LabelError, match=r"not classes of the model: c, \\xed\\xb9\\xb7; its classes are cat"):
        numbered(labels)


def test_numbers_are_class_numbers_if_classes_have_names() -> None:
    assert numbered([2, 0, 2]) == [2, 0, 2]
    assert numbered([[0, 0, 1], [1, 0, 0]]) == [2, 0]


def test_numbers_are_class_names_if_classes_are_numbers() -> None:
    assert numbered([7, -1, 30, 7], ("-1", "7", "30")) == [1, 0, 2, 1]
    assert numbered([[0, 1, 0], [0, 0, 1]], ("-1", "7", "30")) == [1, 2]
    with pytest.raises(LabelError, match="not classes of the model: 0; its classes are -1, 7, 30"):
        numbered([0, 7], ("-1", "7", "30"))


def test_a_label_map_also_maps_numbers() -> None:
    assert numbered([5, 6, 5], mapping={"5": "dog", "6": "cat"}) == [1, 0, 1]


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([0, 3], "labels from 0 to 3; the model has 3: cat, dog, snake, counted from 0"),
        ([-1, 2], "labels from -1 to 2"),
        ([[0, 1], [1, 0]], "one-hot labels of 2 classes; the model has 3: cat, dog, snake"),
    ],
)
def test_numbers_outside_the_classes_are_refused(y: list[object], said: str) -> None:
    with pytest.raises(LabelError, match=said):
        numbered(y)


def test_label_map_is_bounded_in_its_size_and_its_labels(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"labels\.txt is larger than 1048576 bytes; a label map has"):
        label_map(tmp_path, "cats=cat\n" * 200_000)
    with pytest.raises(LabelError, match="line 2: the label has 300 characters, 255 at most"):
        label_map(tmp_path, f"cats=cat\n{'x' * 300}=cat\n")


def test_message_about_long_labels_is_short(tmp_path: Path) -> None:
    mapped = label_map(tmp_path, f"cats={'y' * 100_000}")
    with pytest.raises(LabelError) as raised:
        mapped.class_numbers(["cats"], CLASSES, PATH)
    assert len(str(raised.value)) < 500
