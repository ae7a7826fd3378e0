"""The readers of foreign bytes, one function for each: (content, folder) -> None; folder is for a file of this content.

A function raises an error only when it has a finding. The reader must accept the content, or refuse it with the error
class that it documents and with one sentence (`refusal`). What it accepts must be complete: it can be written and read
again, or it is equal to what numpy reads.

There is no target for model.h5: no reader opens one. The trainer opens only the model.h5 that it has just written to
its private directory, and an experiment file cannot name one.
"""

import functools
import hashlib
import io
import itertools
import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import psycopg2.extensions
from support.bundles import CLASSES, manifest_for

from bundle import BundleError
from bundle.document import sha256_of_json
from bundle.inference.model import Model
from bundle.inference.signature import Signature
from bundle.inference.structure import check_structure
from bundle.inference.trial import try_model
from bundle.inputs.files import read_texts
from bundle.inputs.preprocessing import (
    RESERVED_WORDS,
    ArrayPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
    prepare_image,
    prepare_text,
    token_numbers,
)
from bundle.manifest import FileEntry, Manifest, read_manifest
from bundle.publish import Pointer, read_pointer
from bundle.split import read_split, write_split
from bundle.test_set import read_test_set
from bundle.verify import Bundle
from bundle.vocabulary import read_vocabulary
from pyml import PymlError
from pyml.experiment.experiment import Experiment, read_experiments
from pypredict import PypredictError
from pypredict.binary_copy import SIGNATURE, TRAILER, iterate_inputs, parse_inputs
from pypredict.codec import DTYPES, CodecError, decode, encode
from pypredict.database import DatabaseError, connect
from pypredict.labels import LabelError, Labelling, read_label_map
from pypredict.source import Preparation, TextColumns, read_source

Target = Callable[[bytes, Path], None]
MAX_SENTENCE = 2_000  # characters; ten names of 60 characters, twice, and more
KINDS = ("arrays", "images", "texts")  # of preparations
TFLITE = Signature("uint8", (4, 4, 1), len(CLASSES))


@contextmanager
def refusal(*errors: type[Exception]) -> Iterator[None]:
    """Let these errors pass, if each is one sentence of limited length. `bundle.terminal` shows it on one line."""
    try:
        yield
    except errors as error:
        text = str(error)
        if not 0 < len(text) <= MAX_SENTENCE:
            raise AssertionError(f"not one sentence but {len(text)} characters: {text[:200]!r}") from error


def write(content: bytes, path: Path) -> Path:
    """Write the content to a file; return its path."""
    path.write_bytes(content)
    return path


def manifest(content: bytes, folder: Path) -> None:
    """An accepted manifest can be written and read again, and Postgres can store it."""
    with refusal(BundleError):
        found = read_manifest(write(content, folder / "manifest.json"))
        assert len(found.prep_sha256) == 64
        text = found.model_dump_json()
        assert Manifest.model_validate_json(text) == found
        assert r"\u0000" not in text.replace(r"\\", "")  # Postgres stores no NUL in a text


def pointer(content: bytes, folder: Path) -> None:
    """An accepted pointer can be written and read again."""
    with refusal(BundleError):
        found = read_pointer(write(content, folder / "toys.json"))
        assert Pointer.model_validate_json(found.model_dump_json()) == found


def payload(content: bytes, _: Path) -> None:
    """An accepted payload is the array that np.load reads, and survives a round trip."""
    array = None
    with refusal(CodecError):
        array = decode(content)
    if array is not None:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert decode(encode(array)).tobytes() == array.tobytes()


def copy(content: bytes, _: Path) -> None:
    """Both parsers find the same rows in a stream; iterate_inputs ends, also when the stream is cut off."""
    stream = SIGNATURE + content + TRAILER
    rows = None
    with refusal(struct.error):
        found = itertools.islice(iterate_inputs(stream), len(stream))
        rows = [(input_id, b"" if content is None else bytes(content)) for input_id, content in found]
        assert len(rows) < len(stream)
    for dtype, shape in ((name, shape) for name in DTYPES for shape in ((2,), (1, 3))):
        parsed = parse_inputs(stream, dtype, shape)
        if parsed is not None:
            assert rows == [(int(n), encode(array)) for n, array in zip(*parsed, strict=True)]


def structure(content: bytes, _: Path) -> None:
    """The check of model.tflite refuses a file, or the file has only what is allowed."""
    with refusal(BundleError), suppress(MemoryError):
        check_structure(content, TFLITE)


def trial(content: bytes, _: Path) -> None:
    """A model that passes the trial predicts every input, in the worker's own process."""
    with refusal(BundleError), suppress(MemoryError):
        check_structure(content, TFLITE)  # most files end here, without the cost of a process
        try_model(content, TFLITE)
        model = Model(content, TFLITE)
        inputs = np.random.default_rng(0).integers(0, 256, (70, *TFLITE.shape), np.uint8)
        with suppress(RuntimeError, ValueError):  # documented by Model.predict
            assert model.predict(inputs).shape == (70, len(CLASSES))


@functools.cache
def preparation(kind: str) -> Preparation:
    """Make the preparation of a model of arrays, images or texts."""
    words = [*RESERVED_WORDS, "good", "bad", "film"]
    text = TextPreprocessing(length=8, n_words=len(words), vocabulary_sha256=sha256_of_json(words))
    hows: dict[str, tuple[Preprocessing, np.ndarray]] = {
        "arrays": (ArrayPreprocessing(), np.zeros((3, 2, 3, 1), np.uint8)),
        "images": (ImagePreprocessing(height=4, width=6), np.zeros((3, 4, 6, 3), np.uint8)),
        "texts": (text, np.zeros((3, 8), np.int32)),
    }
    how, x = hows[kind]
    return Preparation(manifest_for("toy", x, np.zeros(3, int), preprocessing=how), words)


def load(path: Path, kind: str, columns: TextColumns, labelling: Labelling | None = None) -> None:
    """Read a source as `pypredict load` does."""
    how = preparation(kind)
    with refusal(PypredictError, BundleError):
        for chunk in read_source(path, how, columns, labelling):
            assert chunk.arrays.shape[1:] == how.manifest.input.shape
            assert chunk.arrays.dtype == how.manifest.input.dtype
            assert chunk.arrays.flags.c_contiguous
            assert len(chunk.content_sha256) == 32
            assert chunk.labels is None or (chunk.labels >= 0).all()
            assert chunk.labels is None or (chunk.labels < len(CLASSES)).all()


def csv(content: bytes, folder: Path) -> None:
    """Each row of a CSV file has a text in valid UTF-8; the same file is a source with and without labels."""
    path = write(content, folder / "texts.csv")
    with refusal(BundleError):
        for row in read_texts(path, "text", "label"):
            assert row.text.strip()
            assert row.label
            (row.text + row.label).encode()
    load(path, "texts", TextColumns())
    load(path, "texts", TextColumns(label="label"))


def bundle_with(name: str, content: bytes, folder: Path, found: Manifest) -> Bundle:
    """Make a bundle of one file; the manifest names its size and its hash, as that of a forged bundle would."""
    write(content, folder / name)
    entry = FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    return Bundle(folder, found.model_copy(update={"files": {name: entry}}))


def split(content: bytes, folder: Path) -> None:
    """The rows of an accepted split.csv can be written and read again."""
    toy = preparation("arrays").manifest
    with refusal(BundleError):
        rows = list(read_split(bundle_with("split.csv", content, folder, toy)))
        write_split(folder / "again.csv", rows)
        again = (folder / "again.csv").read_bytes()
        assert list(read_split(bundle_with("split.csv", again, folder, toy))) == rows


def test_set(content: bytes, folder: Path) -> None:
    """An accepted test set has the dtype, the shape and the classes of the manifest."""
    toy = preparation("arrays").manifest
    with refusal(BundleError):
        x, y = read_test_set(bundle_with("test_set.npz", content, folder, toy))
        assert x.dtype == np.uint8
        assert (x.shape, y.shape) == ((3, *toy.input.shape), (3,))
        assert set(y.tolist()) <= set(range(len(CLASSES)))


def vocabulary(content: bytes, folder: Path) -> None:
    """An accepted vocabulary is a list of words that prepares texts. The manifest is forged to name this vocabulary."""
    n_words, digest = 5, "0" * 64
    with suppress(ValueError, RecursionError, TypeError):
        forged = json.loads(content)
        n_words, digest = max(5, len(forged)), sha256_of_json(forged)
    how = TextPreprocessing(length=8, n_words=n_words, vocabulary_sha256=digest)
    found = preparation("texts").manifest.model_copy(update={"preprocessing": how})
    with refusal(BundleError):
        words = read_vocabulary(bundle_with("vocabulary.json", content, folder, found))
        assert all(isinstance(word, str) for word in words)
        assert prepare_text(" ".join(words), how, token_numbers(words)).shape == (8,)


def label_map(content: bytes, folder: Path) -> None:
    """An accepted label map has labels and classes without white space around them."""
    with refusal(LabelError):
        labelling = read_label_map(write(content, folder / "labels.txt"))
        for label, name in labelling.mapping.items():
            assert label == label.strip() != ""
            assert name == name.strip() != ""
        labelling.class_numbers(set(labelling.mapping), CLASSES, folder / "texts.csv")


def arrays(content: bytes, folder: Path) -> None:
    """The content as .npy file, as .npz file, and as x and as y of an .npz file."""
    plain = io.BytesIO()
    np.save(plain, np.zeros((3, 2, 3, 1), np.uint8))
    load(write(content, folder / "x.npy"), "arrays", TextColumns())
    load(write(content, folder / "x.npz"), "arrays", TextColumns())
    load(write_npz(folder / "xy.npz", x=content, y=content), "arrays", TextColumns(), Labelling(ignore=True))
    load(write_npz(folder / "xy.npz", x=plain.getvalue(), y=content), "arrays", TextColumns())


def write_npz(path: Path, **members: bytes) -> Path:
    """Write an .npz file whose members have these bytes."""
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def image(content: bytes, folder: Path) -> None:
    """A prepared image has the size and the colours of the model."""
    path = write(content, folder / "x.png")
    for color, channels in (("rgb", 3), ("grayscale", 1)):
        with refusal(BundleError):
            array = prepare_image(path, ImagePreprocessing(height=4, width=6, color=color))
            assert array.shape == (4, 6, channels)


def experiment(content: bytes, folder: Path) -> None:
    """Each accepted experiment can be written and read again, as the manifest holds it."""
    with refusal(PymlError):
        for found in read_experiments(write(content, folder / "experiment.json")):
            assert Experiment.model_validate_json(found.model_dump_json()) == found


BEFORE = ("postgresql://user:", "postgres://user:", "postgresql://:")
AFTER = ("@localhost:1/ml", "@localhost", "@[::1]:1/ml?sslmode=disable", "@/ml")


def database_url(content: bytes, _: Path) -> None:
    """No part of the password is shown or looked up in DNS. The first two bytes choose the URL around it."""
    if len(content) < 3:
        return
    before, after = BEFORE[content[0] % len(BEFORE)], AFTER[content[1] % len(AFTER)]
    password = content[2:].decode("utf-8", "replace").replace("\0", "")  # a variable of the environment has no NUL
    known = f"{before}{after}{usual_messages()}".lower()
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", password) if len(part) > 5 and part.lower() not in known]
    shown = try_to_connect(before + password + after)
    assert not [part for part in parts if part in shown], f"{parts} in {shown!r}"
    try_to_connect(password)  # as a whole URL


@functools.cache
def usual_messages() -> str:
    """Give the words that each message may have: of a valid URL and of an invalid one."""
    return try_to_connect("postgresql://user@localhost:1/ml") + try_to_connect("://")


def try_to_connect(url: str) -> str:
    """Connect to a closed port of this machine, whatever host the URL names; return the message and that host."""
    real: Any = psycopg2.connect
    shown: list[str] = []

    def connect_here(dsn: str, **options: Any) -> Any:
        shown.append(psycopg2.extensions.parse_dsn(dsn).get("host", ""))
        return real(dsn, **options, hostaddr="127.0.0.1", port="1")

    vars(psycopg2)["connect"] = connect_here
    try:
        with refusal(DatabaseError):
            try:
                connect(url, wait_seconds=0)
            except DatabaseError as error:
                shown.append(str(error))
                if "no database answered" not in str(error):  # the URL is refused
                    raise
    finally:
        vars(psycopg2)["connect"] = real
    return " ".join(shown)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        manifest,
        pointer,
        payload,
        copy,
        structure,
        trial,
        csv,
        split,
        test_set,
        vocabulary,
        label_map,
        arrays,
        image,
        experiment,
        database_url,
    )
}
