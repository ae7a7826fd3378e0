"""Image files and texts are converted to raw arrays, or refused with a clear error."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.inputs.files import FilesError
from bundle.inputs.preprocessing import (
    PAD,
    RESERVED_WORDS,
    START,
    UNKNOWN,
    ImagePreprocessing,
    PreprocessingError,
    TextPreprocessing,
    pad,
    prepare_image,
    prepare_text,
    token_numbers,
    words_of,
)

RGB = ImagePreprocessing(height=4, width=6)
GRAY = ImagePreprocessing(height=4, width=6, color="grayscale")
RED, GREEN = (200, 0, 0), (0, 200, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Left half red, right half green."""
    image = Image.new("RGB", size, RED)
    image.paste(Image.new("RGB", (size[0] // 2, size[1]), GREEN), (size[0] // 2, 0))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "PNG"),
        ("RGB", "JPEG"),
        ("CMYK", "JPEG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGBA", "PNG"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("RGB", "WEBP"),
    ],
)
def test_51_images_of_every_mode_become_rgb(mode: str, kind: str) -> None:
    array = prepare_image(encoded(halves(mode), kind), RGB)
    assert array.shape == (4, 6, 3)
    assert array.dtype == np.uint8
    assert np.abs(array[0, 0].astype(int) - RED).max() < 30
    assert np.abs(array[0, -1].astype(int) - GREEN).max() < 30


def test_51_an_image_is_turned_upright_by_exif() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the image must be rotated by 90 degrees clockwise
    turned = encoded(halves(size=(60, 40)), "JPEG", exif=exif)
    array = prepare_image(turned, ImagePreprocessing(height=6, width=4))
    assert np.abs(array[0, 0].astype(int) - RED).max() < 30  # the left side is now the top
    assert np.abs(array[-1, 0].astype(int) - GREEN).max() < 30


def test_51_an_animation_becomes_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in (RED, GREEN)]
    array = prepare_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), RGB)
    assert np.abs(array.astype(int) - RED).max() < 10


def test_51_an_image_of_one_pixel_is_prepared() -> None:
    assert (prepare_image(encoded(Image.new("L", (1, 1), 77)), GRAY) == 77).all()


def test_transparent_pixels_become_white() -> None:
    assert (prepare_image(encoded(Image.new("RGBA", (6, 4), (0, 0, 0, 0))), RGB) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_images_with_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    deep = encoded(Image.fromarray(np.full((4, 6), 0x8123, np.uint16)), kind)
    with Image.open(io.BytesIO(deep)) as image:
        assert image.mode == "I;16"
    assert (prepare_image(deep, GRAY) == 0x81).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("how", [RGB, GRAY])
def test_image_of_thirty_two_bits_is_refused(dtype: type[np.generic], how: ImagePreprocessing) -> None:
    """Pillow would clip its values to 0 and 255."""
    deep = encoded(Image.fromarray(np.full((4, 6), 0x8123, dtype)), "TIFF")
    with pytest.raises(PreprocessingError, match=r"it has 32 bits for each pixel, .*; save it with 8 or 16 bits"):
        prepare_image(deep, how)


def test_a_grayscale_image_of_the_same_size_is_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)
    assert np.array_equal(prepare_image(encoded(Image.fromarray(pixels)), GRAY)[:, :, 0], pixels)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", encoded(halves())[:100], encoded(halves(), "JPEG")[:300], b"GIF89a" + b"\0" * 20],
    ids=["empty", "text", "truncated png", "truncated jpeg", "broken gif"],
)
def test_51_an_incomplete_image_is_refused_and_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(PreprocessingError, match=r"broken\.jpg is not a readable image"):
        prepare_image(path, RGB)


class Unreadable(io.BytesIO):
    """An open file whose machine fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        raise self._error


def fail(error: Exception, *, reading: bool) -> Callable[[Path], io.BytesIO]:
    def open_regular(path: Path) -> io.BytesIO:
        if reading:
            return Unreadable(error)
        raise error

    return open_regular


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("reading", [True, False])
def test_failure_of_the_machine_is_not_a_fault_of_the_image(
    monkeypatch: pytest.MonkeyPatch, number: int, reading: bool
) -> None:
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr("bundle.inputs.preprocessing.open_regular", fail(error, reading=reading))
    with pytest.raises(FilesError) as raised:
        prepare_image(Path("cat.png"), RGB)
    assert str(raised.value) == f"cat.png cannot be read ({os.strerror(number)}); check the machine and run it again"


def test_too_little_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle.inputs.preprocessing.open_regular", fail(MemoryError(), reading=True))
    with pytest.raises(FilesError, match=r"cat\.png cannot be read \(too little memory\); free some and run it again"):
        prepare_image(Path("cat.png"), RGB)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), OSError("it is truncated")])
def test_another_error_of_the_system_is_a_fault_of_the_image(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    monkeypatch.setattr("bundle.inputs.preprocessing.open_regular", fail(error, reading=False))
    with pytest.raises(PreprocessingError, match=r"cat\.png is not a readable image: (Perm|it is truncated)"):
        prepare_image(Path("cat.png"), RGB)


def test_a_decompression_bomb_is_refused_before_decoding() -> None:
    bomb = bytearray(encoded(Image.new("L", (10, 10))))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2  # the header alone says 100,000 x 100,000
    with pytest.raises(PreprocessingError):
        prepare_image(bytes(bomb), RGB)


TEXT = TextPreprocessing(length=6, n_words=7, vocabulary_sha256="0" * 64)
NUMBERS = token_numbers([*RESERVED_WORDS, "good", "bad", "don't"])


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("A GOOD film!<br />Don't\tmiss (it).") == ["a", "good", "film", "br", "don't", "miss", "it"]


def test_ascii_words_keep_letters_and_spaces_beyond_ascii() -> None:
    text = "ÉCLAIR Straße\xa0NOIR\x85 (Ok)\r\n"
    assert words_of(text, "ascii") == ["Éclair", "straße\xa0noir\x85", "ok"]
    assert words_of(text) == ["éclair", "straße", "noir", "ok"]


def test_words_outside_the_vocabulary_are_left_out() -> None:
    how = TEXT.model_copy(update={"n_words": 6, "known_words": 7, "length": 4})
    # "don't" is in the vocabulary and has no number
    assert prepare_text("good ugly don't bad", how, NUMBERS).tolist() == [START, 4, UNKNOWN, 5]


def test_a_short_text_is_padded_in_front() -> None:
    assert prepare_text("Good, bad; ugly.", TEXT, NUMBERS).tolist() == [PAD, PAD, START, 4, 5, UNKNOWN]


def test_a_long_text_keeps_its_end() -> None:
    assert prepare_text("bad " * 10 + "good", TEXT, NUMBERS).tolist() == [5, 5, 5, 5, 5, 4]


def test_numbers_beyond_the_vocabulary_become_unknown() -> None:
    assert pad([1, 4, 99], TEXT).tolist() == [0, 0, 0, 1, 4, UNKNOWN]


def test_reserved_words_in_a_text_are_unknown() -> None:
    assert NUMBERS.keys() == {"good", "bad", "don't"}
