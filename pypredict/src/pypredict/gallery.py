"""Stored inputs as people see them: images as PNG, texts as words, other arrays as numbers."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from bundle.inputs.preprocessing import PAD, START
from bundle.messages import shorten
from pypredict.codec import Array, CodecError, decode

MAX_SIDE = 96  # pixels of a picture; a larger image is made smaller
MAX_SHOWN_BYTES = 4 * 2**20  # a larger payload is not read
FIRST_WORDS, MAX_WORDS, MAX_NUMBERS = 40, 300, 12  # of one input

PAYLOADS = sa.text("""
    SELECT input_id, octet_length(payload) AS n_bytes,
           CASE WHEN octet_length(payload) <= :most THEN payload END AS payload
    FROM ml.input WHERE input_id = ANY(:input_ids)""")
WORDS = sa.text("""
    SELECT token, words[token + 1] AS word FROM ml.vocabulary, unnest(CAST(:tokens AS integer[])) AS token
    WHERE prep_sha256 = :prep_sha256""")


@dataclass(frozen=True)
class Shown:
    """One input for people. picture: a PNG as a data URL, of width x height pixels; words: the first and the others."""

    picture: str | None = None
    width: int = 0
    height: int = 0
    words: str = ""
    more_words: str = ""
    note: str = ""


def show_inputs(connection: sa.Connection, input_ids: Sequence[int], kind: str, prep_sha256: bytes) -> dict[int, Shown]:
    """Read a few inputs and make them visible, by input_id. kind: `image`, `text` or `array`, of the preprocessing."""
    rows = connection.execute(PAYLOADS, {"input_ids": list(input_ids), "most": MAX_SHOWN_BYTES})
    arrays: dict[int, Array] = {}
    shown: dict[int, Shown] = {}
    for row in rows:
        try:
            if row.payload is None:
                shown[row.input_id] = Shown(note=f"The array has {row.n_bytes:,} bytes; it is too large to be shown.")
            else:
                arrays[row.input_id] = decode(bytes(row.payload))
        except CodecError as error:
            shown[row.input_id] = Shown(note=f"The payload cannot be read: {error}")
    if kind == "text":
        words = _read_words(connection, list(arrays.values()), prep_sha256)
        return shown | {input_id: show_text(array, words) for input_id, array in arrays.items()}
    return shown | {input_id: show_array(array, scaled=kind != "image") for input_id, array in arrays.items()}


def show_array(array: Array, *, scaled: bool) -> Shown:
    """Show (h, w), (h, w, 1) or (h, w, 3) as a picture, another array as its first numbers.

    scaled: the lowest value becomes black and the highest white; otherwise the values are uint8 pixels.
    """
    if array.ndim in (2, 3) and array.shape[2:] in ((), (1,), (3,)) and min(array.shape[:2]) > 1:
        return _picture(array.reshape(array.shape[:2]) if array.shape[2:] == (1,) else array, scaled=scaled)
    numbers = " ".join(f"{value:.4g}" for value in array.ravel()[:MAX_NUMBERS].tolist())
    rest = array.size - MAX_NUMBERS
    return Shown(note=f"{array.dtype} of shape {array.shape}: {numbers}" + (f" and {rest:,} more" if rest > 0 else ""))


def show_text(tokens: Array, words: Mapping[int, str]) -> Shown:
    """Show token numbers (length,) as words, without PAD and START."""
    known = [words.get(int(token), f"<{token}>") for token in tokens.ravel() if token not in (PAD, START)]
    more = known[FIRST_WORDS:MAX_WORDS]
    if len(known) > MAX_WORDS:
        more.append(f"(and {len(known) - MAX_WORDS} more words)")
    return Shown(words=" ".join(known[:FIRST_WORDS]) or "(no words)", more_words=" ".join(more))


def _read_words(connection: sa.Connection, arrays: Sequence[Array], prep_sha256: bytes) -> dict[int, str]:
    tokens = sorted({int(token) for array in arrays for token in array.ravel()})
    rows = connection.execute(WORDS, {"tokens": tokens, "prep_sha256": prep_sha256})
    return {row.token: shorten(row.word) for row in rows if row.word is not None}


def _picture(array: Array, *, scaled: bool) -> Shown:
    from PIL import Image

    pixels = array
    if scaled or array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        pixels = np.asarray((array.astype(np.float64) - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Shown(picture=url, width=image.width, height=image.height)
