"""Datasets: raw arrays, and splits that are stratified, disjoint by content and repeatable."""

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.inputs.preprocessing import ArrayPreprocessing
from bundle.vocabulary import encode_vocabulary
from pyml import PymlError
from pyml.config import Settings
from pyml.datasets.dataset import (
    Dataset,
    Prepared,
    Split,
    build_dataset,
    check_publishable,
    most_file_bytes,
    save_split,
)
from pyml.datasets.load import load_dataset
from pyml.datasets.split import Rows, check_learnable, content_hashes, drop_copies, split_rows
from pyml.evaluation.metrics import write_predictions
from pyml.experiment.data_spec import Digits, TextCsv

SETTINGS = Settings()
DIGITS = Digits(name="digits", validation=0.15, test=0.2)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DIGITS, SETTINGS)


def contents(part: Split) -> set[bytes]:
    return {sample.tobytes() for sample in part.x[:]}


def distinct(n: int, n_classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n, dtype=np.int32).reshape(n, 1), np.arange(n) % n_classes


def test_digits_are_raw_images_with_the_declared_input(digits: Dataset) -> None:
    assert digits.train.x.dtype == np.uint8
    assert digits.train.x.shape[1:] == (8, 8, 1)
    assert (digits.input.dtype, digits.input.shape) == ("uint8", (8, 8, 1))
    assert (digits.train.x[:].min(), digits.train.x[:].max()) == (0, 16)


def test_the_test_set_has_the_requested_size(digits: Dataset) -> None:
    assert (len(digits.test.y), len(digits.validation.y)) == (360, 270)
    assert 1797 - 5 <= len(digits.test.y) + len(digits.validation.y) + len(digits.train.y) <= 1797


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_each_split_has_the_same_share_of_each_class(digits: Dataset, part: str) -> None:
    labels = getattr(digits, part).y
    whole = np.concatenate([digits.train.y, digits.validation.y, digits.test.y])
    expected = np.bincount(whole, minlength=10) * len(labels) / len(whole)
    assert np.abs(np.bincount(labels, minlength=10) - expected).max() <= 2


def test_no_image_is_in_two_splits(digits: Dataset) -> None:
    train, validation, test = contents(digits.train), contents(digits.validation), contents(digits.test)
    assert train.isdisjoint(validation)
    assert train.isdisjoint(test)
    assert validation.isdisjoint(test)


def test_the_same_seed_gives_the_same_split(digits: Dataset) -> None:
    assert load_dataset(DIGITS, SETTINGS).fingerprint == digits.fingerprint


def test_another_split_seed_gives_another_split(digits: Dataset) -> None:
    other = load_dataset(DIGITS.model_copy(update={"split_seed": 1}), SETTINGS)
    assert other.fingerprint != digits.fingerprint


def test_images_keep_their_labels(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    known = load_digits()
    label_of = {
        image.astype(np.uint8).tobytes(): label for image, label in zip(known.images, known.target, strict=True)
    }
    for part in (digits.train, digits.validation, digits.test):
        assert [label_of[sample.tobytes()] for sample in part.x[:]] == part.y.tolist()


def split(x: np.ndarray, y: np.ndarray) -> tuple[Split, Split, Split]:
    rows = drop_copies(split_rows(y, DIGITS), content_hashes(x))
    first, second, third = (Split(x[part], y[part]) for part in (rows.train, rows.validation, rows.test))
    return first, second, third


def test_copies_of_test_samples_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    x, y = distinct(100)
    doubled_x, doubled_y = np.concatenate([x, x]), np.concatenate([y, y])
    with caplog.at_level(logging.INFO):
        train, validation, test = split(doubled_x, doubled_y)
    n_dropped = 200 - len(train.y) - len(validation.y) - len(test.y)
    assert caplog.messages == [
        f"{n_dropped} samples are left out: after preparation they equal a sample of the test or validation set"
    ]
    assert len(test.y) == 40
    assert not contents(test) & (contents(train) | contents(validation))


def test_copies_of_validation_samples_are_dropped() -> None:
    x, y = distinct(100)
    train, validation, _ = split(np.concatenate([x, x]), np.concatenate([y, y]))
    assert not contents(train) & contents(validation)


def test_a_validation_set_of_only_copies_is_refused() -> None:
    rows = Rows(np.arange(10), np.array([], np.int64), np.arange(20, 30))
    with pytest.raises(PymlError, match="x: every validation sample is a copy of a test sample"):
        check_learnable(rows, np.arange(30) % 2, ("a", "b"), "x")


def test_classes_without_training_samples_are_named_with_what_is_needed() -> None:
    """Whether all others are copies of test samples, or the class is only in an official test set."""
    rows, y = Rows(np.arange(10), np.arange(10, 20), np.arange(20, 30)), np.array([0] * 20 + [1] * 5 + [2] * 5)
    with pytest.raises(PymlError, match=r"^x: no training sample of b, c is left; each class needs some that"):
        check_learnable(rows, y, ("a", "b", "c"), "x")


def test_samples_without_copies_stay() -> None:
    x, y = distinct(100)
    assert [len(part.y) for part in split(x, y)] == [65, 15, 20]


def test_fractions_too_small_for_the_classes_are_refused() -> None:
    with pytest.raises(PymlError, match=r"1797 samples of 10 classes, which cannot be split into .* test 0\.001"):
        load_dataset(DIGITS.model_copy(update={"test": 0.001}), SETTINGS)


def test_the_fingerprint_depends_on_each_pixel(digits: Dataset) -> None:
    x = digits.train.x[:].copy()
    x[0, 0, 0, 0] += 1
    changed = dataclasses.replace(digits, train=Split(x, digits.train.y))
    assert changed.fingerprint != digits.fingerprint


def test_the_fingerprint_depends_on_each_label(digits: Dataset) -> None:
    y = digits.test.y.copy()
    y[0] = (y[0] + 1) % 10
    changed = dataclasses.replace(digits, test=Split(digits.test.x, y))
    assert changed.fingerprint != digits.fingerprint


def test_the_fingerprint_depends_on_the_class_names(digits: Dataset) -> None:
    changed = dataclasses.replace(digits, classes=("zero", *digits.classes[1:]))
    assert changed.fingerprint != digits.fingerprint


def test_the_fingerprint_depends_on_the_vocabulary(digits: Dataset) -> None:
    changed = dataclasses.replace(digits, words=("other",))
    assert changed.fingerprint != digits.fingerprint


def test_the_fingerprint_depends_on_the_split_of_a_sample(digits: Dataset) -> None:
    changed = dataclasses.replace(digits, validation=digits.test, test=digits.validation)
    assert changed.fingerprint != digits.fingerprint


def check(
    classes: tuple[str, ...] = ("a", "b"),
    x: np.ndarray | None = None,
    words: tuple[str, ...] = (),
    sources: tuple[str, ...] = (),
    n_test: int = 40,
) -> None:
    """Check a dataset of 20 samples, of which 40 copies are the test set."""
    samples = np.zeros((20, 1), np.uint8) if x is None else x
    prepared = Prepared(classes, ArrayPreprocessing(), samples, np.arange(20) % 2, words, sources)
    check_publishable("mine", prepared, n_test)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("a", "b\0"), "the class names: a text holds a NUL character; remove it"),
        (("a", "b" * 256), "1: string should have at most 255 characters"),
        (tuple(map(str, range(1_001))), "the class names: tuple should have at most 1000 items"),
    ],
)
def test_class_names_that_no_bundle_can_hold_are_refused(classes: tuple[str, ...], said: str) -> None:
    """Before the training, with the rule that the manifest checks after it."""
    with pytest.raises(PymlError, match=f"^dataset mine: {said}"):
        check(classes)


def test_a_vocabulary_that_no_bundle_can_hold_is_refused() -> None:
    with pytest.raises(PymlError, match=r"^dataset mine: the vocabulary: a text holds a NUL character"):
        check(words=("<pad>", "a\0"))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((20, 65 * 2**20), "one sample: one input has 68157440 bytes, at most 67107840 are stored"),
        ((20, 60 * 2**20), "the test set has 2516582720 bytes, at most 536870912 are read; use fewer test samples"),
    ],
    ids=["sample", "test_set"],
)
def test_sizes_that_no_bundle_can_hold_are_refused(shape: tuple[int, int], said: str) -> None:
    x = np.lib.stride_tricks.as_strided(np.arange(20, dtype=np.uint8), shape, (1, 0))  # needs 20 bytes
    with pytest.raises(PymlError, match=f"^dataset mine: {said}"):
        check(x=x)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": ("x" * 2**23,) * 20}, r"split\.csv can have up to 1677\d+ bytes, at most 134217728 .* samples"),
        (
            {"classes": tuple(map(str, range(1_000))), "n_test": 40_000},
            r"predictions\.csv can have up to 72\d+ bytes, at most 536870912 .* test samples or classes",
        ),
        ({"words": ("x" * 2**20,) * 16}, r"vocabulary\.json can have up to 167\d+ bytes, at most 16777216 .* words"),
    ],
    ids=["split", "predictions", "vocabulary"],
)
def test_files_that_no_reader_accepts_are_refused_before_the_training(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PymlError, match=rf"^dataset mine: {said}$"):
        check(**changes)


LONG_NUMBERS = [1.1754943e-38, 1.17549435e-38, 0.00010000012, 0.9999999, 1e-45, 3.4028235e-5, 1 / 3]


@pytest.mark.parametrize("classes", [("a", "b"), ('"', '"""a,"'), ("a\r", "wolf \U0001f43a"), ("x" * 255, "\u2028")])
def test_written_files_are_never_larger_than_computed(tmp_path: Path, classes: tuple[str, str]) -> None:
    n, n_test = 1_000, 700
    x, y = distinct(n)
    words = ("<pad>", 'a"\\\n', "\u00e9t\u00e9 \U0001f43a")
    sources = [('"\r\n",', "a b", "\u00e9" * 99)[row % 3] for row in range(n)]
    prepared = Prepared(classes, ArrayPreprocessing(), x, y, words, sources)
    rows = Rows(np.arange(100), np.arange(100, 300), np.arange(300, n))
    save_split(tmp_path / "split.csv", build_dataset("mine", prepared, rows))
    bits = np.random.default_rng(0).integers(0, np.float32(1).view(np.uint32), (n_test, 2), np.uint32)
    probabilities = bits.view(np.float32)
    probabilities[: len(LONG_NUMBERS), 0] = LONG_NUMBERS
    write_predictions(tmp_path / "predictions.csv", probabilities, y[rows.test], classes)
    (tmp_path / "vocabulary.json").write_bytes(encode_vocabulary(words))
    most = most_file_bytes(prepared, n_test)
    written = {name: (tmp_path / name).stat().st_size for name in most}
    assert all(most[name] / 2 < written[name] <= most[name] for name in most), (written, most)


BAD = "b\0d"


def test_a_csv_label_with_nul_is_refused_before_the_training(tmp_path: Path) -> None:
    texts = [" ".join(words) for words in itertools.permutations("abcde")]
    rows = [f"{text},{('good', BAD)[row % 2]}" for row, text in enumerate(texts)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows))
    columns = {"text_column": "text", "label_column": "label", "validation": 0.2, "test": 0.2, "words": 20, "length": 6}
    data = TextCsv.model_validate({"name": "mine", "kind": "text-csv", "path": str(tmp_path / "mine.csv"), **columns})
    with pytest.raises(PymlError, match=r"^dataset mine: the class names: a text holds a NUL character; remove it$"):
        load_dataset(data, SETTINGS)
