"""Small bundles for tests: model.h5 and model.tflite hold arbitrary bytes, all other files are valid."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bundle.document import sha256_of_json
from bundle.inputs.preprocessing import (
    RESERVED_WORDS,
    ArrayPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
)
from bundle.manifest import GitState, InputSpec, Manifest, Metrics, Serving, TrackedRun
from bundle.publish import bundle_path, point, publish, staging
from bundle.split import SplitRow, content_sha256, write_split
from bundle.verify import Bundle, open_bundle

CLASSES = ("ant", "bee", "cat")
ARRAY = ArrayPreprocessing()
TINY_EXPERIMENT: dict[str, Any] = {  # the content of an experiment file; it trains in a second
    "name": "tiny",
    "data": {"name": "digits", "validation": 0.15, "test": 0.2},
    "layers": [
        {"layer": "Rescaling", "scale": 0.0625},
        {"layer": "Flatten"},
        {"layer": "Dense", "units": 10, "activation": "softmax"},
    ],
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "loss": "sparse_categorical_crossentropy",
    "epochs": 3,
    "batch_size": 32,
}


def fake_predict(arrays: np.ndarray) -> np.ndarray:
    """The model of the tests: the class is the first element modulo the number of classes, with probability 0.9."""
    first = arrays.reshape(len(arrays), -1)[:, 0].astype(int) % len(CLASSES)
    probabilities = np.full((len(arrays), len(CLASSES)), 0.05, np.float32)
    probabilities[np.arange(len(arrays)), first] = 0.9
    return probabilities


def arrays_and_labels(n: int, *, seed: int = 0, shape: tuple[int, ...] = (4, 4, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Make random uint8 arrays, and labels; fake_predict predicts about 20 % of them wrong."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *shape), np.uint8)
    y = fake_predict(x).argmax(axis=1)
    wrong = rng.random(n) < 0.2
    return x, np.where(wrong, (y + 1) % len(CLASSES), y)


def manifest_for(
    bundle_id: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    dataset: str = "toys",
    classes: tuple[str, ...] = CLASSES,
    preprocessing: Preprocessing = ARRAY,
) -> Manifest:
    """Make a manifest with the accuracy of fake_predict on x, y."""
    n_correct = int((fake_predict(x).argmax(axis=1) == y).sum())
    accuracy = n_correct / len(x)
    return Manifest(
        bundle_id=bundle_id,
        name=bundle_id,
        dataset=dataset,
        input=InputSpec(dtype=x.dtype.name, shape=x.shape[1:]),
        classes=classes,
        preprocessing=preprocessing,
        serving=Serving(rows=None),
        experiment={"name": bundle_id},
        data_sha256="0" * 64,
        test_sha256=hashlib.sha256(repr(classes).encode() + x.tobytes() + y.astype("<i8").tobytes()).hexdigest(),
        metrics=Metrics(
            n=len(x),
            n_correct=n_correct,
            accuracy=accuracy,
            loss=0.5,
            macro_precision=0.5,
            macro_recall=0.5,
            macro_f1=0.5,
        ),
        best_epoch=1,
        epochs_trained=1,
        train_seconds=1.0,
        parameters=1,
        seed=0,
        git=GitState(),
        versions={},
        tracked_run=TrackedRun(mode="disabled"),
        created_at=datetime.now(UTC),
    )


def publish_bundle(
    models: Path,
    bundle_id: str = "toy",
    *,
    n: int = 30,
    seed: int = 0,
    shape: tuple[int, ...] = (4, 4, 1),
    dataset: str = "toys",
    classes: tuple[str, ...] = CLASSES,
    preprocessing: Preprocessing = ARRAY,
    words: list[str] | None = None,
    dtype: str = "uint8",
    weights: bytes | None = None,
    serving: bytes = b"serving",
    n_correct: int | None = None,
    learned: np.ndarray | None = None,
    split: str | None = None,
    proposed: bool = True,
    promote: bool = False,
) -> Bundle:
    """Publish a bundle with n test inputs and, if `proposed`, write the pointer of its dataset.

    words: the vocabulary of a text dataset. weights, serving: the content of model.h5 and model.tflite. n_correct: the
    value in the manifest, also if it is wrong. learned: the training samples. split: the content of split.csv.
    """
    x, y = arrays_and_labels(n, seed=seed, shape=shape)
    x = x.astype("int32" if words else dtype)
    manifest = manifest_for(bundle_id, x, y, dataset=dataset, classes=classes, preprocessing=preprocessing)
    if n_correct is not None:
        metrics = manifest.metrics.model_copy(update={"n_correct": n_correct, "accuracy": n_correct / n})
        manifest = manifest.model_copy(update={"metrics": metrics})
    rows = [SplitRow("test", row, classes[label], f"row {row}", _sha256(x[row])) for row, label in enumerate(y)]
    rows += [
        SplitRow("train", row, classes[0], f"row {n + row}", _sha256(array))
        for row, array in enumerate(() if learned is None else learned)
    ]
    with staging(models) as staged:
        (staged / "model.h5").write_bytes(weights or f"model of {bundle_id}".encode())
        (staged / "model.tflite").write_bytes(serving)
        np.savez(staged / "test_set.npz", x=x, y=y)
        (staged / "predictions.csv").write_text("sample,label,predicted,confidence\n")
        write_split(staged / "split.csv", rows)
        if words:
            (staged / "vocabulary.json").write_text(json.dumps(words))
        if split is not None:
            (staged / "split.csv").write_text(split, encoding="utf-8")
        published = publish(staged, models, manifest)
    if proposed:
        point(models, published, promote=promote)
    return open_bundle(bundle_path(models, bundle_id))


def forge(path: Path, name: str = "", content: bytes = b"", **changes: Any) -> None:
    """Change a published bundle as an attacker would: a file, with a matching entry, and keys of the manifest."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    if name:
        (path / name).write_bytes(content)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))


def _sha256(array: np.ndarray) -> str:
    return content_sha256(array).hex()


def publish_images(models: Path, color: str = "rgb") -> Bundle:
    """Publish a bundle for the dataset `pictures`: images of 4 x 6 pixels."""
    preprocessing = ImagePreprocessing(height=4, width=6, color=color)
    return publish_bundle(
        models, "pictures", shape=preprocessing.shape, dataset="pictures", preprocessing=preprocessing
    )


def publish_texts(models: Path, bundle_id: str = "reviews", known: tuple[str, ...] = ()) -> Bundle:
    """Publish a bundle for the dataset `reviews`: texts of 8 tokens, and a vocabulary of 4 words.

    known: more words of the vocabulary, without a number; then words outside the vocabulary are left out.
    """
    words = [*RESERVED_WORDS, "good", "bad", "film", "'twas", *known]
    preprocessing = TextPreprocessing(
        length=8,
        n_words=len(words) - len(known),
        vocabulary_sha256=sha256_of_json(words),
        known_words=len(words) if known else None,
    )
    return publish_bundle(models, bundle_id, shape=(8,), dataset="reviews", preprocessing=preprocessing, words=words)


def write_image(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (value,) * 3).save(path)
    return path


def files_of(directory: Path) -> dict[str, bytes]:
    """Read the files of a directory, by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}
