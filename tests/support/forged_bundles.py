"""Published bundles, changed as an attacker with write access to the models volume would change them.

`FORGED` names each change and a part of the sentence that refuses the bundle. A change gets the bundle's directory; the
name of its directory is the id of the bundle and the name of its dataset.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bundle.document import sha256_of_json
from bundle.inputs.preprocessing import RESERVED_WORDS
from support.bundles import forge, publish_bundle
from support.tflite_models import dense_model, pack

Change = Callable[[Path], object]
SPARSE_BYTES = 6 * 2**30
ABSENT = {"sha256": "0" * 64, "size": 10}


def pointer_of(path: Path) -> Path:
    return path.parent.parent / "current" / f"{path.name}.json"


def fifo(*names: str) -> Change:
    """Replace a file of the bundle by a FIFO: to open it waits for a writer, without end."""
    return lambda path: _replace(path.joinpath(*names), os.mkfifo)


def device(name: str) -> Change:
    return lambda path: _replace(path / name, lambda file: file.symlink_to("/dev/zero"))


def sparse(name: str) -> Change:
    """Replace a file by 6 GiB of zeros that need no space on the disk; the manifest agrees with the size."""

    def change(path: Path) -> None:
        _replace(path / name, lambda file: _grow(file, SPARSE_BYTES))
        _entry(path, name, {"sha256": "0" * 64, "size": SPARSE_BYTES})

    return change


def pointer(change: Change) -> Change:
    return lambda path: _replace(pointer_of(path), change)


def manifest(text: Callable[[str], str]) -> Change:
    """Change the text of the manifest."""
    return lambda path: (path / "manifest.json").write_text(text((path / "manifest.json").read_text()))


def odd_time(path: Path) -> None:
    """Write a valid pointer with a time zone that Postgres does not know."""
    known = json.loads(pointer_of(path).read_text())
    pointer_of(path).write_text(json.dumps(known | {"proposed_at": "2026-01-01T00:00:00+23:59"}))


def keys(**changes: Any) -> Change:
    return lambda path: forge(path, **changes)


def metric(name: str, value: Any) -> Change:
    """Change a metric in the manifest; json writes NaN and Infinity as such."""

    def change(path: Path) -> None:
        metrics = json.loads((path / "manifest.json").read_text())["metrics"]
        forge(path, metrics=metrics | {name: value})

    return change


def vocabulary(content: bytes) -> Change:
    """Make it a bundle of texts with this content in vocabulary.json."""

    def change(path: Path) -> None:
        words = [*RESERVED_WORDS, "good"]
        how = {"kind": "text", "length": 16, "n_words": len(words), "vocabulary_sha256": sha256_of_json(words)}
        forge(path, "vocabulary.json", content, preprocessing=how)

    return change


def bomb(path: Path) -> None:
    """Make a test set of 3 MB that declares what the manifest says, and decompresses to 600 MB."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "|u1", "fortran_order": False, "shape": (30, 4, 4, 1)}
            )
            for _ in range(60):
                member.write(bytes(10 * 2**20))
        archive.writestr("y.npy", b"")
    forge(path, "test_set.npz", content.getvalue())


def slow_model(n_graphs: int = 1_000_000) -> bytes:
    """Make a small file that declares very many graphs, all of them the same bytes: its parser needs minutes."""
    builder = flatbuffers.Builder(1024)
    schema.SubGraphStart(builder)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, n_graphs)
    for _ in range(n_graphs):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _replace(path: Path, change: Change) -> None:
    path.unlink(missing_ok=True)
    change(path)


def _grow(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def _entry(path: Path, name: str, entry: dict[str, Any]) -> None:
    forge(path, files=json.loads((path / "manifest.json").read_text())["files"] | {name: entry})


NESTED = "[" * 100_000 + "]" * 100_000
NUL = "a\0b"
POINTER = '{"bundle_id": "toy", "sha256": "%s", "proposed_at": "%s"}'
FORGED: dict[str, tuple[Change, str]] = {
    "pointer-fifo": (pointer(os.mkfifo), "not a regular file"),
    "pointer-device": (pointer(lambda path: path.symlink_to("/dev/zero")), "not a regular file"),
    "pointer-folder": (pointer(Path.mkdir), "not a regular file"),
    "pointer-loop": (pointer(lambda path: path.symlink_to(path)), "not a regular file"),
    "pointer-sparse": (pointer(lambda path: _grow(path, SPARSE_BYTES)), "it is larger than"),
    "pointer-nested": (pointer(lambda path: path.write_text(NESTED[:4000])), "recursion limit exceeded"),
    "pointer-not-utf-8": (pointer(lambda path: path.write_bytes(b"\xff\xfe")), "is not a valid pointer"),
    "pointer-nul": (pointer(lambda path: path.write_text(POINTER % (NUL, ""))), "is not a valid pointer"),
    "pointer-time": (odd_time, "cannot be used (DataError: time zone displacement out of range"),
    "manifest-fifo": (fifo("manifest.json"), "not a regular file"),
    "manifest-device": (device("manifest.json"), "not a regular file"),
    "manifest-nested": (manifest(lambda text: text.replace("{", '{"a": ' + NESTED + ",", 1)), "recursion limit"),
    "manifest-surrogate": (manifest(lambda text: text.replace('"unknown"', '"\\ud800"')), "invalid JSON"),
    "manifest-many-values": (keys(experiment={"a": [[]] * 3_000_000}), "holds more than"),
    "manifest-many-keys": (keys(**{str(number): 1 for number in range(300_000)}), "keys, at most 100 are read"),
    "manifest-many-versions": (keys(versions={str(number): 1 for number in range(300_000)}), "at most 100 are read"),
    "manifest-long-key": (keys(**{"k\n" * 1_000_000: 1}), "extra inputs are not permitted"),
    "class-nul": (keys(classes=["ant", "bee", NUL]), "a text holds a NUL character"),
    "class-long": (keys(classes=["ant", "bee", "c" * 1_000_000]), "should have at most 255 characters"),
    "classes-many": (keys(classes=[str(number) for number in range(1_001)]), "at most 1000 items"),
    "classes-numbers": (keys(classes=[1] * 1_000_000), "classes.0: input should be a valid string"),
    "experiment-nul": (keys(experiment={"layers": [{"name": NUL}]}), "a text holds a NUL character"),
    "experiment-key-nul": (keys(experiment={NUL: 1}), "a text holds a NUL character"),
    "experiment-nan": (keys(experiment={"rate": float("nan")}), "a number is not finite"),
    "experiment-long-number": (keys(experiment={"rate": 10**400}), "more than 64 bits"),
    "shape-huge": (keys(input={"dtype": "uint8", "shape": [8, 8, 10**18]}), "at most 67107840 are stored"),
    "metrics-nan": (metric("accuracy", float("nan")), "should be a finite number"),
    "metrics-infinite": (metric("loss", float("inf")), "should be a finite number"),
    "metrics-huge": (metric("n", 10**15), "the test set has"),
    "metrics-confusion": (metric("confusion", [[1, 2], [3]]), "the metrics are not those of 3 classes"),
    "files-nul": (lambda path: _entry(path, NUL, ABSENT), "a text holds a NUL character"),
    "files-many": (keys(files={str(number): ABSENT for number in range(99)}), "at most 32 items"),
    "model-sparse": (sparse("model.h5"), "model.h5 has 6442450944 bytes, at most"),
    "model-fifo": (fifo("model.tflite"), "not a regular file"),
    "model-device": (device("model.tflite"), "not a regular file"),
    "model-garbage": (lambda path: forge(path, "model.tflite", b"\xff" * 4096), "is not a readable model"),
    "predictions-sparse": (sparse("predictions.csv"), "predictions.csv has 6442450944 bytes, at most"),
    "split-fifo": (fifo("split.csv"), "not a regular file"),
    "split-garbage": (lambda path: forge(path, "split.csv", b"\0" * 4096), "line 1: not a readable split"),
    "split-commas": (lambda path: forge(path, "split.csv", b"," * 2**20), "a line has more than 65536 characters"),
    "test-set-fifo": (fifo("test_set.npz"), "not a regular file"),
    "test-set-bomb": (bomb, "an array does not have the 480 bytes of its header"),
    "test-set-garbage": (lambda path: forge(path, "test_set.npz", b"PK" * 4096), "is not a .npz file"),
    "words-objects": (vocabulary(b'[{"a": 1}, {}, {}, {}, {}]'), "0: input should be a valid string"),
    "words-nested": (vocabulary(NESTED.encode()), "recursion limit exceeded"),
    "words-nul": (vocabulary(b'["a\\u0000", "", "", "", ""]'), "a text holds a NUL character"),
}


def publish_forged(models: Path, name: str) -> Path:
    """Publish a bundle under this name for a dataset of this name, propose it, then change it; return its directory."""
    text = name.startswith("words")
    shape, dtype = ((16,), "int32") if text else ((4, 4, 1), "uint8")
    serving = pack(dense_model(shape, dtype=dtype))
    bundle = publish_bundle(models, name, dataset=name, seed=len(name), shape=shape, dtype=dtype, serving=serving)
    path = bundle.path
    FORGED[name][0](path)
    return path
