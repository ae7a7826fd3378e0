"""Valid contents for each target: the fuzzer starts from them. They are made here, so they follow the formats."""

import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz.targets import KINDS, preparation
from PIL import Image
from support.bundles import TINY_EXPERIMENT, arrays_and_labels
from support.tflite_models import dense_model, lookup_model, pack

from bundle.inputs.preprocessing import RESERVED_WORDS
from pypredict.codec import encode

GRID: dict[str, Any] = TINY_EXPERIMENT | {"epochs": [1, 2], "promote_if": {"accuracy": 0.9}}
TEXTS: dict[str, Any] = TINY_EXPERIMENT | {
    "data": {"name": "r", "kind": "text-csv", "path": "r.csv", "words": 9, "length": 4, "validation": 0.1, "test": 0.1},
    "layers": [
        {"layer": "Embedding", "input_dim": 9, "output_dim": 2},
        {"layer": "Bidirectional", "inner": {"layer": "LSTM", "units": 2}},
        {"layer": "Dense", "units": 1, "activation": "sigmoid"},
    ],
    "early_stopping": {"monitor": "val_loss", "patience": 1},
}


def manifests() -> list[bytes]:
    """A manifest of each kind of preparation."""
    return [preparation(kind).manifest.model_dump_json(indent=2).encode() for kind in KINDS]


def pointers() -> list[bytes]:
    """A pointer."""
    pointer = {"bundle_id": "toy", "sha256": "a" * 64, "proposed_at": "2026-11-28T12:00:00Z", "promote": False}
    return [json.dumps(pointer).encode()]


def payloads() -> list[bytes]:
    """A payload of each dtype."""
    return [encode(np.arange(6, dtype=dtype).reshape(1, 3, 2)) for dtype in ("uint8", "int32", "float32")]


def copies() -> list[bytes]:
    """The rows of a stream, without signature and trailer: two payloads, and one that is NULL."""
    payload = encode(np.array([7, 8], np.uint8))
    row = struct.pack(">hiqi", 2, 8, 1, len(payload)) + payload
    return [row * 2, row + struct.pack(">hiqi", 2, 8, 2, -1)]


def models() -> list[bytes]:
    """A model.tflite of dense layers, and one that looks its answers up."""
    table = np.full((256, 3), 1 / 3, np.float32)[:9]
    return [pack(dense_model()), pack(lookup_model(table))]


def csvs() -> list[bytes]:
    """CSV files with quotes, a byte order mark and other columns."""
    return [
        b"text,label\ngood film,ant\nbad film,bee\n",
        b'\xef\xbb\xbfid,label,text\r\n1,ant,"good, ""very"" good"\r\n\r\n2,cat,"two\nlines"\r\n',
    ]


def splits() -> list[bytes]:
    """A split with a sample in each part."""
    rows = "".join(f"{part},0,cat,cat/1.jpg,{'a' * 64}\n" for part in ("train", "validation", "test"))
    return [f"part,sample,label,source,sha256\n{rows}".encode()]


def vocabularies() -> list[bytes]:
    """A vocabulary with words that are not ASCII."""
    return [json.dumps([*RESERVED_WORDS, "film", "été", "映画"]).encode()]


def label_maps() -> list[bytes]:
    """A label map with a comment and an empty line."""
    return [b"# labels\nants = ant\n\nbees=bee\n", "chats=cat\nété=ant\n".encode()]


def array_files() -> list[bytes]:
    """Samples and labels as .npy files, and both in an .npz file."""
    x, y = arrays_and_labels(3, shape=(2, 3, 1))
    kinds = (x, x.astype(np.float64), y, np.array(["ant", "bee", "cat"]), np.eye(3), np.array([True, False, True]))
    return [_npy(array) for array in kinds] + test_sets()


def test_sets() -> list[bytes]:
    """Samples and labels in an .npz file, compressed and not."""
    x, y = arrays_and_labels(3, shape=(2, 3, 1))
    made = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, x=x, y=y)
        made.append(file.getvalue())
    return made


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def images() -> list[bytes]:
    """Images of each format and of several colour modes; one is animated, one is turned by its EXIF tag."""
    picture = Image.fromarray(np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [_saved(picture, kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")]
    made += [_saved(picture.convert(mode), "PNG") for mode in ("L", "LA", "P", "RGBA", "1", "I;16")]
    made += [_saved(picture.convert("CMYK"), "JPEG", exif=exif), _saved(picture, "PNG", exif=exif)]
    made += [_saved(picture, "TIFF", compression="tiff_lzw"), _saved(picture.convert("RGBA"), "TIFF")]
    return [*made, _saved(picture, "GIF", save_all=True, append_images=[picture.rotate(90)])]


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def experiments() -> list[bytes]:
    """An experiment, a grid, and an experiment with texts."""
    return [json.dumps(one).encode() for one in (TINY_EXPERIMENT, GRID, TEXTS)]


def urls() -> list[bytes]:
    """Passwords, each after two bytes that choose the URL around it."""
    passwords = ("correcthorse", "correct%20horse", "correct horse")
    return [bytes([number, number]) + password.encode() for number, password in enumerate(passwords)]


EXAMPLES: dict[str, Callable[[], list[bytes]]] = {
    "manifest": manifests,
    "pointer": pointers,
    "payload": payloads,
    "copy": copies,
    "structure": models,
    "trial": models,
    "csv": csvs,
    "split": splits,
    "test_set": test_sets,
    "vocabulary": vocabularies,
    "label_map": label_maps,
    "arrays": array_files,
    "image": images,
    "experiment": experiments,
    "database_url": urls,
}
