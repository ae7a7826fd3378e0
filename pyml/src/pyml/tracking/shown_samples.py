"""Samples of the test set in the record: only if PYML_TRACK_SAMPLES is true. Without it no sample leaves the machine.

At most 132 samples are recorded: the first 100 rows of the predictions table, and the 32 worst mistakes. An image is
made smaller, to at most 256 pixels a side. A text is cut at 1,000 characters, and consists of the words that the model
sees. Arrays that are neither images nor texts are not recorded.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundle.inputs.arrays import Array
from bundle.inputs.preprocessing import RESERVED_WORDS, UNKNOWN, TextPreprocessing
from bundle.messages import printable, shorten
from bundle.test_set import read_test_set
from bundle.verify import Bundle
from bundle.vocabulary import read_vocabulary
from pyml.tracking.predictions import read_rows

MAX_MISTAKES, MAX_ROWS = 32, 100
MAX_SIDE, MAX_CHARACTERS = 256, 1_000  # of an image in pixels, of a text


@dataclass(frozen=True)
class ShownSamples:
    """first_rows: the cells (wandb.Image or text) of the first samples. mistakes: wandb.Images, or one wandb.Table."""

    first_rows: list[Any]
    mistakes: Any


def show_samples(bundle: Bundle) -> ShownSamples | None:
    """Choose the samples. Give None if they are neither images nor texts. Raises BundleError."""
    rows = read_rows(bundle.path)
    next(rows)
    wrong = [(float(row[3]), -int(row[0]), row[1], row[2]) for row in rows if row[1] != row[2]]
    worst = [(-minus, label, said, sure) for sure, minus, label, said in heapq.nlargest(MAX_MISTAKES, wrong)]
    x, _ = read_test_set(bundle)
    first = range(min(MAX_ROWS, len(x)))
    is_text = isinstance(bundle.manifest.preprocessing, TextPreprocessing)
    if is_text:
        text = _text_of(bundle, x)
        return ShownSamples([text(sample) for sample in first], _table(worst, text))
    if not _are_images(x):
        return None
    image = _image_of(x, [*first, *(sample for sample, *_ in worst)])
    mistakes = [image(sample, f"{label} taken for {said} ({sure:.2f})") for sample, label, said, sure in worst]
    return ShownSamples([image(sample, f"sample {sample}") for sample in first], mistakes)


def _are_images(x: Array) -> bool:
    return x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))


def _image_of(x: Array, shown: list[int]) -> Callable[[int, str], Any]:
    """Give a function that makes a wandb.Image of a sample. The values of all shown samples become 0 to 255."""
    import wandb
    from PIL import Image

    values = np.nan_to_num(x[shown].astype(np.float32))
    low, high = float(values.min()), float(values.max())

    def image(sample: int, caption: str) -> Any:
        scaled = (np.nan_to_num(x[sample].astype(np.float32)) - low) * (255 / max(high - low, 1e-9))
        pixels = scaled.round().clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1:] == (1,) and pixels.ndim == 3 else pixels)
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        return wandb.Image(picture, caption=printable(caption))

    return image


def _text_of(bundle: Bundle, x: Array) -> Callable[[int], str]:
    """Give a function that makes a text of a sample, with the words of the vocabulary."""
    words = read_vocabulary(bundle)

    def text(sample: int) -> str:
        tokens = [int(token) for token in x[sample]]
        shown = [words[token] for token in tokens if token == UNKNOWN or token >= len(RESERVED_WORDS)]
        return shorten(printable(" ".join(shown)), MAX_CHARACTERS)

    return text


def _table(worst: list[tuple[int, str, str, float]], text: Callable[[int], str]) -> Any:
    import wandb

    data = [[sample, text(sample), label, said, sure] for sample, label, said, sure in worst]
    return wandb.Table(columns=["sample", "input", "label", "predicted", "confidence"], data=data)
