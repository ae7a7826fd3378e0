"""Mutators for formats that refuse most changes of single bytes at once. libFuzzer's own mutator does the rest.

Each function has the form that atheris needs: (content, max_size, seed) -> content.
"""

import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import atheris
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from support.tflite_models import pack

Mutator = Callable[[bytes, int, int], bytes]
Place = tuple[Any, Any]  # a container, and a key of it

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**40, 0.5, 1e308, float("nan"), float("inf")),
    *("", "\0", "\ud800", "a\nb", "\x1b[31m", "\u202e", "x" * 300, "../x", "/dev/zero", "a" * 64, "1", "none"),
    *([], {}, [[]], [1], {"": ""}),
)
INTEGERS = (-(2**31), -7, -1, 0, 1, 2, 3, 4, 5, 6, 7, 17, 40, 63, 64, 127, 255, 65536, 2**31 - 1)


def mutate_bytes(content: bytes, max_size: int, _: int) -> bytes:
    """Change some bytes: libFuzzer's own mutator."""
    return bytes(atheris.Mutate(content, max_size))


def mutate_json(content: bytes, max_size: int, seed: int) -> bytes:
    """Change, move, repeat or remove one value of a JSON document."""
    rng = random.Random(seed)
    try:
        document = [json.loads(content)]
        if rng.random() < 0.3:
            return mutate_bytes(content, max_size, seed)
        _change(rng, list(_places(document)))
        text = json.dumps(document[0]).encode()
    except (ValueError, RecursionError):
        return mutate_bytes(content, max_size, seed)
    return text if len(text) <= max_size else mutate_bytes(content, max_size, seed)


def _change(rng: random.Random, places: list[Place]) -> None:
    container, key = rng.choice(places)
    what = rng.random()
    if what < 0.5:
        container[key] = rng.choice(VALUES)
    elif what < 0.6:
        source, place = rng.choice(places)
        container[key] = json.loads(json.dumps(source[place]))
    elif what < 0.7:
        container[key] = [container[key]] * rng.choice((1, 2, 20))
    elif what < 0.8 and isinstance(container, dict):
        container[rng.choice(("x", "", "\0", "a\nb", *container))] = container.pop(key)
    elif what < 0.9:
        for _ in range(rng.choice((1, 50, rng.randrange(900, 1000)))):  # the limit of json is about 1,000
            container[key] = [container[key]]
    else:
        del container[key]
        if isinstance(container, list) and not container:
            container.append(None)


def _places(value: Any) -> Iterator[Place]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def mutate_tflite(content: bytes, max_size: int, seed: int) -> bytes:
    """Change one number, name or list of a model, and write the model again."""
    rng = random.Random(seed)
    if rng.random() < 0.1:
        return mutate_bytes(content, max_size, seed)
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        for _ in range(rng.choice((1, 1, 2, 4))):
            owner, name = rng.choice(list(_parts(model)))
            setattr(owner, name, _other(rng, getattr(owner, name)))
        changed = pack(model)
    except Exception:  # the parser and the writer raise errors of many kinds
        return mutate_bytes(content, max_size, seed)
    return changed if len(changed) <= max_size else mutate_bytes(content, max_size, seed)


def _parts(owner: Any) -> Iterator[Place]:
    for name, value in vars(owner).items():
        yield owner, name
        for part in value if isinstance(value, list) else [value]:
            if hasattr(part, "__dict__"):
                yield from _parts(part)


def _other(rng: random.Random, value: Any) -> Any:
    """Give another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, rng.choice(INTEGERS)))
    if isinstance(value, bytes):
        return rng.choice((b"", b"inputs", b"probabilities", b"rows", b"\x1b[31m\n", value * 2))
    return _other_list(rng, value) if isinstance(value, list | np.ndarray) and len(value) else value


def _other_list(rng: random.Random, value: Any) -> Any:
    items, place = list(value), rng.randrange(len(value))
    if rng.random() < 0.3:
        return items[:place] + items[place + 1 :]
    if not isinstance(items[place], int | np.integer):
        return [*items, items[place]]
    items[place] = rng.choice((rng.choice(INTEGERS), int(rng.choice(items))))
    return np.array(items, value.dtype) if isinstance(value, np.ndarray) else items


def mutate_image(content: bytes, max_size: int, seed: int) -> bytes:
    """Change bytes of an image. In a PNG file, correct the checksums: Pillow refuses a wrong one at once."""
    changed = mutate_bytes(content, max_size, seed)
    if seed % 8 == 0 or changed[:8] != b"\x89PNG\r\n\x1a\n":
        return changed
    found, offset = bytearray(changed), 8
    while offset + 12 <= len(found):
        end = offset + 8 + struct.unpack_from(">I", found, offset)[0]
        if end + 4 > len(found):
            break
        struct.pack_into(">I", found, end, zlib.crc32(found[offset + 4 : end]))
        offset = end + 4
    return bytes(found)


MUTATORS: dict[str, Mutator] = {
    **dict.fromkeys(("manifest", "pointer", "vocabulary", "experiment"), mutate_json),
    **dict.fromkeys(("structure", "trial"), mutate_tflite),
    "image": mutate_image,
}
