"""Convert an image file or a text into a raw array for the model. Trainer and predict service use the same code.

Arrays stay raw: uint8 pixels, int32 token numbers. Scaling is the model's first layer.

An image: the first frame is read and turned upright by its EXIF tag. Transparent pixels become white. Then the image is
converted to the colour mode and resized (bilinear; the aspect ratio is not kept).

A text: it is lower-cased, punctuation becomes a space, and each word becomes its number in the vocabulary. UNKNOWN
stands for a word without a number. START goes in front. A short text is filled with PAD at the front; of a long text
the end is kept. Keras's IMDB example prepares its reviews in this way. The IMDB data treat a text as bytes, and leave
out words that the dataset does not know: TextPreprocessing has a field for each of these two rules.
"""

import io
import string
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bundle import BundleError
from bundle.document import Document, Sha256

MAX_PIXELS = 100_000_000
MAX_WORDS = 1_000_000  # of a vocabulary
PAD, START, UNKNOWN = 0, 1, 2
RESERVED_WORDS = ("<pad>", "<start>", "<unknown>", "<unused>")  # token numbers 0 to 3, as in Keras's IMDB data
ASCII_LOWER_CASE = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
SEPARATORS = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n\r', " "))


class PreprocessingError(BundleError):
    """An image or a text cannot be prepared; str() names it and gives the reason."""


class ArrayPreprocessing(Document):
    """Store arrays and give them to the model without a change."""

    kind: Literal["array"] = "array"


class ImagePreprocessing(Document):
    """Image files become (height, width, channels) uint8; sizes in pixels."""

    kind: Literal["image"] = "image"
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    color: Literal["grayscale", "rgb"] = "rgb"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one prepared image."""
        return (self.height, self.width, 1 if self.color == "grayscale" else 3)


class TextPreprocessing(Document):
    """Texts become (length,) int32 token numbers below n_words.

    characters: "unicode" or "ascii". With "ascii", only A to Z are lower-cased and only ASCII spaces separate words.
    known_words: None: every word without a number is UNKNOWN. A number: the vocabulary holds so many words. Its first
    n_words have a number, its other words are UNKNOWN, and a word outside the vocabulary is left out.
    """

    kind: Literal["text"] = "text"
    length: Annotated[int, Field(ge=1, le=100_000)]
    n_words: Annotated[int, Field(ge=len(RESERVED_WORDS) + 1, le=MAX_WORDS)]
    vocabulary_sha256: Sha256
    characters: Literal["unicode", "ascii"] = "unicode"
    known_words: Annotated[int, Field(ge=len(RESERVED_WORDS) + 1, le=MAX_WORDS)] | None = None


Preprocessing = Annotated[ArrayPreprocessing | ImagePreprocessing | TextPreprocessing, Field(discriminator="kind")]


def prepare_image(source: Path | bytes, how: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """Read an image file (or its bytes); return (height, width, channels) uint8. Raises PreprocessingError."""
    from PIL import Image, ImageOps

    name = source if isinstance(source, Path) else f"an image of {len(source)} bytes"
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as file,
        ):
            if file.width * file.height > MAX_PIXELS:
                raise PreprocessingError(
                    f"{name} has {file.width} x {file.height} pixels; at most {MAX_PIXELS} are read"
                )
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # 16 bits per pixel: keep the upper eight; convert() would clip
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if how.color == "grayscale" else "RGB")
            image = image.resize((how.width, how.height), Image.Resampling.BILINEAR)
    except PreprocessingError:
        raise
    except Exception as error:  # Pillow's decoders raise many classes of errors for a broken file
        raise PreprocessingError(f"{name} is not a readable image: {error}") from error
    return np.asarray(image, np.uint8).reshape(how.shape)


def words_of(text: str, characters: Literal["unicode", "ascii"] = "unicode") -> list[str]:
    """Split a text into lower-case words."""
    if characters == "ascii":
        return [word for word in text.translate(ASCII_LOWER_CASE).translate(SEPARATORS).split(" ") if word]
    return text.lower().translate(SEPARATORS).split()


def prepare_text(text: str, how: TextPreprocessing, numbers: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """Convert a text to (length,) int32 token numbers. numbers: `token_numbers` of the bundle's vocabulary."""
    words = words_of(text, how.characters)
    if how.known_words is not None:
        words = [word for word in words if word in numbers]
    token_numbers = [numbers.get(word, UNKNOWN) for word in words]
    return pad([START, *token_numbers], how)


def pad(tokens: Sequence[int], how: TextPreprocessing) -> npt.NDArray[np.int32]:
    """Pad or cut token numbers at the front to (length,) int32; a number from n_words on becomes UNKNOWN."""
    row = np.full(how.length, PAD, np.int32)
    kept = np.asarray(tokens[-how.length :], np.int32)
    row[how.length - len(kept) :] = np.where(kept < how.n_words, kept, UNKNOWN)
    return row


def token_numbers(words: Sequence[str]) -> dict[str, int]:
    """Map each word of a vocabulary (words by token number) to its number, without the reserved words."""
    return {word: number for number, word in enumerate(words) if number >= len(RESERVED_WORDS)}
