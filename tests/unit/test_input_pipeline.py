"""The input pipeline gives all samples, raw, in a new order each epoch; the same from memory and from a file."""

from pathlib import Path

import numpy as np
import pytest

from pyml.datasets.dataset import Split
from pyml.datasets.samples import store_samples
from pyml.experiment.experiment import Loss
from pyml.keras_library import start_keras
from pyml.training.input_pipeline import batches_of
from pyml.training.seed import seed_everything

N = 50
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 3, 2, 1), np.uint8)
LABELS = np.arange(N) % 3
IN_MEMORY = Split(IMAGES, LABELS)
SPARSE: Loss = "sparse_categorical_crossentropy"
Batches = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module", autouse=True)
def _keras() -> None:
    start_keras()


@pytest.fixture
def in_a_file(tmp_path: Path) -> Split:
    return Split(store_samples(iter(IMAGES), IMAGES.shape, memory_bytes=0, directory=tmp_path), LABELS)


def epochs(split: Split, shuffle_seed: int | None, n: int = 1, loss: Loss = SPARSE) -> list[Batches]:
    seed_everything(0)
    batches = batches_of(split, loss, 3, 16, shuffle_seed)
    return [[(x.numpy(), y.numpy()) for x, y in batches] for _ in range(n)]


def in_order(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def test_samples_are_in_order_without_shuffling() -> None:
    (batches,) = epochs(IN_MEMORY, None)
    assert [len(x) for x, _ in batches] == [16, 16, 16, 2]
    x, y = in_order(batches)
    assert x.dtype == np.uint8
    assert np.array_equal(x, IMAGES)
    assert np.array_equal(y, LABELS)


def test_an_epoch_has_every_sample_once() -> None:
    (batches,) = epochs(IN_MEMORY, 0)
    x, y = in_order(batches)
    label_of = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    assert sorted(image.tobytes() for image in x) == sorted(image.tobytes() for image in IMAGES)
    assert [label_of[image.tobytes()] for image in x] == y.tolist()


def test_each_epoch_has_another_order() -> None:
    first, second = (in_order(batches)[0] for batches in epochs(IN_MEMORY, 0, n=2))
    assert not np.array_equal(first, IMAGES)
    assert not np.array_equal(first, second)


def test_the_same_seed_gives_the_same_order() -> None:
    first, again = ([in_order(batches)[0] for batches in epochs(IN_MEMORY, 5, n=2)] for _ in range(2))
    assert np.array_equal(first, again)


def test_another_seed_gives_another_order() -> None:
    assert not np.array_equal(in_order(epochs(IN_MEMORY, 0)[0])[0], in_order(epochs(IN_MEMORY, 1)[0])[0])


def test_samples_in_a_file_give_the_same_batches(in_a_file: Split) -> None:
    for ours, theirs in zip(epochs(in_a_file, 3, n=2), epochs(IN_MEMORY, 3, n=2), strict=True):
        for (x, y), (other_x, other_y) in zip(ours, theirs, strict=True):
            assert np.array_equal(x, other_x)
            assert np.array_equal(y, other_y)


def test_samples_in_a_file_have_a_known_shape(in_a_file: Split) -> None:
    x, _ = batches_of(in_a_file, SPARSE, 3, 16, None).element_spec
    assert (x.shape.as_list(), x.dtype.name) == ([None, 3, 2, 1], "uint8")


@pytest.mark.parametrize(("loss", "shape"), [("categorical_crossentropy", (16, 3)), ("binary_crossentropy", (16, 1))])
def test_labels_are_encoded_for_the_loss(loss: Loss, shape: tuple[int, ...]) -> None:
    (batches,) = epochs(IN_MEMORY, None, loss=loss)
    assert batches[0][1].shape == shape


def test_autotune_is_off() -> None:
    assert batches_of(IN_MEMORY, SPARSE, 3, 16, 0).options().autotune.enabled is False
