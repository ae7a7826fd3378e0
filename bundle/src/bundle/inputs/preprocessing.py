"""Convert an image file or a text into a raw array for the model. Trainer and predict service use the same code.

Arrays stay raw: uint8 pixels, int32 token numbers. Scaling is the model's first layer.

An image: the first frame is read and turned upright by its EXIF tag. Transparent pixels become white. Then the image is
converted to the colour mode and resized (bilinear; the aspect ratio is not kept). A JPEG of over 24 megapixels is
decoded at a half, a quarter or an eighth of its size, still at least twice the size of the array.

A text: it is lower-cased, punctuation becomes a space, and each word becomes its number in the vocabulary. UNKNOWN
stands for a word without a number. START goes in front. A short text is filled with PAD at the front; of a long text
the end is kept. Keras's IMDB example prepares its reviews in this way. The IMDB data treat a text as bytes, and leave
out words that the dataset does not know: TextPreprocessing has a field for each of these two rules.
"""

import errno
import io
import os
import string
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bundle import BundleError
from bundle.document import Document, Sha256
from bundle.inputs.files import IMAGE_FORMATS, FilesError
from bundle.messages import one_line
from bundle.regular_file import open_regular

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

# So one image needs less than 512 MiB of memory: at most 8 bytes for each pixel, of TIFF 12, of WebP 20. A progressive
# JPEG needs 2 bytes for each sample (pixels times channels), however small it is decoded.
MAX_PIXELS = {"JPEG": 24_000_000, "TIFF": 30_000_000, "WEBP": 20_000_000}
MAX_OTHER_PIXELS = 50_000_000
MAX_JPEG_SAMPLES = 200_000_000
MAX_IMAGE_BYTES, MAX_WEBP_BYTES = 200_000_000, 40_000_000  # of the file; WebP is read whole
MAX_SCANS = 100  # of a JPEG; a progressive one has about ten
JPEG_START, JPEG_SCAN, WEBP_START = b"\xff\xd8", b"\xff\xda", b"RIFF"
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of TIFF
STRIP_ROWS = 256
# The machine fails, not the image: disk, memory, open files, network.
MACHINE_ERRORS = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT)
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
    """Read an image file (or its bytes); return (height, width, channels) uint8.

    Raises PreprocessingError, or FilesError when the machine fails, which says nothing about the image.
    """
    from PIL import Image, UnidentifiedImageError

    name = source if isinstance(source, Path) else f"an image of {len(source)} bytes"
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),  # our limits are lower
            open_regular(source) if isinstance(source, Path) else io.BytesIO(source) as content,
        ):
            _check_content(content)
            with Image.open(content, formats=tuple(IMAGE_FORMATS)) as file:
                _limit_pixels(file, how)
                return np.asarray(_convert(file, how), np.uint8).reshape(how.shape)
    except UnidentifiedImageError as error:
        raise PreprocessingError(f"{name} is not a readable image: it is none of {', '.join(IMAGE_FORMATS)}") from error
    except MemoryError as error:
        raise FilesError(f"{name} cannot be read (too little memory); free some and run it again") from error
    except Exception as error:  # Pillow's decoders raise many classes of errors for a broken file
        if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
            reason = os.strerror(error.errno)
            raise FilesError(f"{name} cannot be read ({reason}); check the machine and run it again") from error
        reason = getattr(error, "strerror", None) or one_line(error)
        raise PreprocessingError(f"{name} is not a readable image: {reason}") from error


def _check_content(content: IO[bytes]) -> None:
    """Refuse a file that is too large, or a JPEG with too many scans, each of which costs the time of a whole image."""
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    start = content.read(4)
    limit = MAX_WEBP_BYTES if start == WEBP_START else MAX_IMAGE_BYTES
    if size > limit:
        raise ValueError(f"it has {size} bytes, at most {limit} are read")
    if start.startswith(JPEG_START) and (scans := content.read().count(JPEG_SCAN)) > MAX_SCANS:
        raise ValueError(f"it has {scans} scans, at most {MAX_SCANS} are read; save it again")
    content.seek(0)


def _limit_pixels(file: "ImageFile", how: ImagePreprocessing) -> None:
    """Refuse an image whose decoding needs too much memory. A large JPEG is decoded to a half, quarter or eighth."""
    kind = "JPEG" if file.format == "MPO" else file.format or ""  # MPO: a JPEG with a second image
    width, height, channels = *file.size, len(file.getbands())
    if kind == "TIFF":  # a tile is decoded whole, and may be larger than the image
        tags = getattr(file, "tag_v2", {})
        width, height = max(width, tags.get(TILE_WIDTH, 0)), max(height, tags.get(TILE_LENGTH, 0))
    limit = MAX_PIXELS.get(kind, MAX_OTHER_PIXELS)
    if kind == "JPEG" and width * height > limit:
        if width * height * channels > MAX_JPEG_SAMPLES:
            limit = MAX_JPEG_SAMPLES // channels
        else:
            side = 2 * max(how.height, how.width)  # so that the resizing still has twice the pixels
            file.draft(None, (side, side))
    if (width * height if kind == "TIFF" else file.width * file.height) > limit:
        raise ValueError(f"it has {width} x {height} pixels, at most {limit} are read; make it smaller")


def _convert(image: "Image.Image", how: ImagePreprocessing) -> "Image.Image":
    """Turn an image upright, and convert its colours and its size. At most two images of full size are in memory."""
    from PIL import Image, ImageOps

    if image.mode in ("I", "F"):  # convert() would clip the values to 0 and 255
        raise ValueError("it has 32 bits for each pixel, or signed numbers; save it with 8 or 16 bits, without a sign")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):  # 16 bits per pixel: keep the upper eight; convert() would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = _on_white(image)
    color = "L" if how.color == "grayscale" else "RGB"
    if image.mode != color:
        image = image.convert(color)
    return image.resize((how.width, how.height), Image.Resampling.BILINEAR)


def _on_white(image: "Image.Image") -> "Image.Image":
    """Put an image with transparency on white, strip by strip: three more images of full size need too much memory."""
    from PIL import Image

    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP_ROWS):
        box = (0, top, image.width, min(top + STRIP_ROWS, image.height))
        strip = image.crop(box).convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), box)
    return whole


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
