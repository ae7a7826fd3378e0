"""Files into the stack and out of it, as docs/stack.md says: own data, exports, bundles, SQL."""

import csv
import json
import os
import pty
import random
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from compose.stack import Stack
from support.terminal import read_terminal

LEARN = {
    "loss": "sparse_categorical_crossentropy",
    "optimizer": {"name": "Adam", "learning_rate": 0.05},
    "epochs": 20,
    "batch_size": 8,
}
SPLIT = {"validation": 0.2, "test": 0.2}


def write_png(path: Path, pixels: bytes, width: int) -> None:
    """Write a grayscale image with 8 bits a pixel."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + pixels[at : at + width] for at in range(0, len(pixels), width))
    head = struct.pack(">IIBBBBB", width, len(pixels) // width, 8, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    )


def write_images(folder: Path, seed: int, count: int, names: tuple[str, str] = ("dark", "light")) -> None:
    """Write `count` dark and `count` light images of 16 x 16, in one sub-folder each."""
    noise = random.Random(seed)
    for name, base in zip(names, (40, 200), strict=True):
        for number in range(count):
            pixels = bytes(base + noise.randrange(-40, 40) for _ in range(16 * 16))
            write_png(folder / name / f"{number}.png", pixels, 16)


def write_reviews(path: Path, numbers: range) -> None:
    words = (("good", "pos"), ("bad", "neg"))
    rows = [f"a {word} film with number {number},{label}" for number in numbers for word, label in words]
    path.write_text("\n".join(["text,label", *rows]) + "\n")


def train(stack: Stack, name: str, data: dict[str, object], layers: list[dict[str, object]], mount: str) -> None:
    """Train on files of the host, as the docs say."""
    experiment = {"name": name, "data": {"name": name, **data, **SPLIT}, "layers": layers, **LEARN}
    (stack.directory / f"experiments/{name}.json").write_text(json.dumps(experiment))
    stack.call(
        "sh",
        "-ec",
        f'docker compose run --rm -T -v "$PWD/{mount}:/app/data/{mount}:ro" pyml train experiments/{name}.json',
    )


def load(stack: Stack, path: str, dataset: str, options: str = "") -> None:
    """Store files of the host, as the docs say; wait until the running service has predicted them."""
    mount = f'-v "$PWD/{path}:/in/{path}:ro"'
    stack.call(
        "sh", "-ec", f"docker compose run --rm -T {mount} pypredict load /in/{path} --dataset {dataset} {options}"
    )
    stack.until(lambda: stack.open_jobs() == 0, "they are predicted", 120)


def outcomes(stack: Stack, dataset: str) -> list[list[str]]:
    """Count labels and predictions of the inputs that are not in the test set."""
    query = f"SELECT label, predicted, count(*) FROM ml.outcome WHERE dataset = '{dataset}' AND NOT in_test_set"
    return stack.sql(query + " GROUP BY 1, 2 ORDER BY 1, 2")


def test_own_images_are_trained_loaded_and_predicted(stack: Stack) -> None:
    write_images(stack.directory / "photographs", seed=1, count=30)
    write_images(stack.directory / "new", seed=2, count=5)
    data = {"kind": "image-folder", "path": "photographs", "height": 16, "width": 16, "color": "grayscale"}
    layers: list[dict[str, object]] = [{"layer": "Rescaling", "scale": 1 / 255}, {"layer": "Flatten"}]
    train(stack, "photographs", data, [*layers, {"layer": "Dense", "units": 2, "activation": "softmax"}], "photographs")
    load(stack, "new", "photographs")
    assert outcomes(stack, "photographs") == [["dark", "dark", "5"], ["light", "light", "5"]]


def test_photographs_with_unknown_labels_are_stored_with_a_label_map(stack: Stack) -> None:
    """Ten photographs whose labels the model does not know: refused, then mapped; each name beside its prediction."""
    write_images(stack.directory / "album", seed=3, count=5, names=("night", "day at sea"))
    with pytest.raises(AssertionError, match="labels that are not classes of the model: day at sea, night"):
        load(stack, "album", "photographs")
    (stack.directory / "album" / "labels.txt").write_text("night=dark\nday at sea=light\n")
    load(stack, "album", "photographs", "--label-map /in/album/labels.txt")
    query = "SELECT name, label, predicted FROM ml.latest_predictions WHERE source LIKE '%album%' ORDER BY name"
    assert stack.sql(query) == [
        [f"{folder}/{number}.png", label, label]
        for folder, label in (("day at sea", "light"), ("night", "dark"))
        for number in range(5)
    ]


def test_own_csv_is_trained_loaded_and_predicted(stack: Stack) -> None:
    write_reviews(stack.directory / "reviews.csv", range(30))
    write_reviews(stack.directory / "new.csv", range(90, 95))
    data = {"kind": "text-csv", "path": "reviews.csv", "text_column": "text", "label_column": "label"}
    layers: list[dict[str, object]] = [
        {"layer": "Embedding", "input_dim": 50, "output_dim": 4},
        {"layer": "GlobalAveragePooling1D"},
    ]
    dense = {"layer": "Dense", "units": 2, "activation": "softmax"}
    train(stack, "reviews", {**data, "words": 50, "length": 8}, [*layers, dense], "reviews.csv")
    load(stack, "new.csv", "reviews", "--label-column label")
    assert outcomes(stack, "reviews") == [["neg", "neg", "5"], ["pos", "pos", "5"]]


def test_predictions_are_exported_to_a_file_of_the_host(stack: Stack) -> None:
    inside = "pypredict export /tmp/predictions.csv && cat /tmp/predictions.csv && rm /tmp/predictions.csv"
    stack.call("sh", "-ec", f"docker compose exec -T pypredict sh -c '{inside}' > predictions.csv")
    with (stack.directory / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == stack.number("SELECT count(*) FROM ml.prediction") > 0
    assert rows[0]["predicted"] != ""
    assert (stack.directory / "predictions.csv").stat().st_uid == os.getuid()
    assert stack.run_in("pypredict", "ls", "/tmp").stdout.count("predictions.csv") == 0


def test_bundles_are_copied_to_the_host(stack: Stack) -> None:
    stack.compose("cp", "pypredict:/models/.", "models")
    hashes = ("sh", "-c", "cd {} && find . -type f | sort | xargs sha256sum")
    inside = stack.run_in("pypredict", *hashes[:2], hashes[2].format("/models")).stdout
    assert stack.call(*hashes[:2], hashes[2].format("models")).stdout == inside != ""


def test_psql_in_the_database_container_prints_no_error(stack: Stack) -> None:
    terminal, end = pty.openpty()
    command = ["docker", "compose", "exec", "db", "psql", "-U", "ml_owner", "-d", "ml", "-P", "pager=off"]
    psql = subprocess.Popen(command, cwd=stack.directory, env=stack.environment, stdin=end, stdout=end, stderr=end)
    os.close(end)
    os.write(terminal, b"SELECT 41 + 1 AS answer;\n\\q\n")
    shown = read_terminal(terminal)
    assert psql.wait(timeout=60) == 0
    assert b"42" in shown
    assert b"could not" not in shown, shown.decode()


def test_prune_runs_as_the_owner_and_can_write_the_models_volume(stack: Stack) -> None:
    made = "mkdir -p /models/bundles/left && echo left > /models/bundles/left/model.h5"
    stack.compose(
        "run", "--rm", "--entrypoint", "sh", "prune", "-ec", f"{made} && touch -d 2020-01-01 /models/bundles/left"
    )
    assert "left" in stack.compose("run", "--rm", "prune", "bundles").stdout
    deleted = stack.compose("run", "--rm", "prune", "bundles", "--yes")
    assert "1 bundles are deleted: 5 bytes went back to the disk" in deleted.stderr
    kept = stack.compose("run", "--rm", "prune", "inputs", "--older-than", "90d").stdout
    assert "Nothing is deleted" in kept
    refused = stack.compose(
        "run", "--rm", "--no-deps", "pypredict", "prune", "inputs", "--older-than", "90d", check=False
    )
    assert refused.returncode == 1
    assert "the login pypredict may not delete; log in as ml_owner" in refused.stderr
