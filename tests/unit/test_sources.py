"""Sources become chunks: each input has a name and, if labelled, a class of the model; errors give the reason."""

import csv
import logging
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPO
from support.bundles import ARRAY, CLASSES, manifest_for, publish_bundle, write_image

from bundle import BundleError
from bundle.document import sha256_of_json
from bundle.inputs.files import FilesError
from bundle.inputs.preprocessing import RESERVED_WORDS, ImagePreprocessing, Preprocessing, TextPreprocessing
from pypredict.chunk import Chunk
from pypredict.labels import LabelError, Labelling
from pypredict.source import Preparation, SourceError, TextColumns, cut_test_set, read_source

WORDS = [*RESERVED_WORDS, "good", "bad", "film", "'twas"]
IMAGES = ImagePreprocessing(height=4, width=6)
TEXTS = TextPreprocessing(length=8, n_words=len(WORDS), vocabulary_sha256=sha256_of_json(WORDS))


def how(shape: tuple[int, ...] = (4, 4, 1), preprocessing: Preprocessing = ARRAY) -> Preparation:
    x = np.zeros((3, *shape), np.int32 if preprocessing == TEXTS else np.uint8)
    manifest = manifest_for("toy", x, np.arange(3), preprocessing=preprocessing)
    return Preparation(manifest, WORDS if preprocessing == TEXTS else ())


ARRAYS, PHOTOS, REVIEWS = how(), how(IMAGES.shape, IMAGES), how((8,), TEXTS)


def read(path: Path, preparation: Preparation, label_column: str | None = None, **labelling: Any) -> list[Chunk]:
    return list(read_source(path, preparation, TextColumns(label=label_column), Labelling(**labelling)))


def names(chunks: list[Chunk]) -> list[str | None]:
    return [chunk.name_of(row) for chunk in chunks for row in range(len(chunk.arrays))]


def labels(chunks: list[Chunk]) -> list[str]:
    found: list[str] = []
    for chunk in chunks:
        if chunk.labels is not None and chunk.classes is not None:
            found += [chunk.classes[number] for number in chunk.labels]
    return found


def write_csv(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


# Names


def test_images_of_a_folder_are_named_by_their_path(tmp_path: Path) -> None:
    for name in ("cat/img_001.png", "ant/b.png", "ant/a.png"):
        write_image(tmp_path / "photos" / name, 1)
    (tmp_path / "photos/ant/broken.png").write_bytes(b"")
    assert names(read(tmp_path / "photos", PHOTOS)) == ["ant/a.png", "ant/b.png", "cat/img_001.png"]


def test_images_without_labels_are_named_by_their_file(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png", 1)
    write_image(tmp_path / "a.png", 2)
    assert names(read(tmp_path, PHOTOS)) == ["a.png", "b.png"]
    assert names(read(tmp_path / "b.png", PHOTOS)) == ["b.png"]


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    write_image(tmp_path / os.fsdecode(b"caf\xe9/caf\xe9.png"), 1)
    (chunk,) = read(tmp_path / os.fsdecode(b"caf\xe9"), PHOTOS)
    assert chunk.names == (r"caf\xe9.png",)
    assert chunk.source.endswith(r"caf\xe9")


def test_texts_of_a_csv_are_named_by_their_last_line(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", ("text",), ("good",), ("bad\nfilm",), ("film",))
    assert names(read(path, REVIEWS)) == ["line 2", "line 4", "line 5"]


def test_a_text_file_is_one_text_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "review.txt").write_text("\ufeffA good\nfilm.\n", encoding="utf-8")
    (chunk,) = read(tmp_path / "review.txt", REVIEWS)
    assert chunk.names == ("review.txt",)
    assert chunk.arrays.tolist() == [[0, 0, 0, 0, 1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("content", "said"), [(b" \n!", "holds no word"), (b"caf\xe9", "not UTF-8"), (b"x" * (2**24 + 1), "is larger than")]
)
def test_an_invalid_text_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "review.txt").write_bytes(content)
    with pytest.raises(SourceError, match=rf"review\.txt .*{said}"):
        read(tmp_path / "review.txt", REVIEWS)


def test_rows_of_an_array_file_are_numbered_over_all_chunks(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1_002, 4, 4, 1), np.uint8))
    chunks = read(tmp_path / "x.npy", ARRAYS)
    assert names(chunks) == [f"row {row}" for row in range(1_002)]
    assert [(chunk.names, chunk.first_row) for chunk in chunks] == [(None, 0), (None, 1_000)]


def test_names_do_not_change_the_content_hash(tmp_path: Path) -> None:
    first, second = (read(write_image(tmp_path / name, 7), PHOTOS)[0] for name in ("a.png", "b.png"))
    assert (first.names, second.names) == (("a.png",), ("b.png",))
    assert first.content_sha256 == second.content_sha256


SHA = "0" * 64
SPLIT = (
    f"part,sample,label,source,sha256\ntrain,0,ant,a.png,{SHA}\ntest,0,ant,cat/1.png,{SHA}\n"
    f"test,1,bee,b.png,{SHA}\ntest,2,cat,c.png,{SHA}\n"
)


def test_test_samples_have_the_names_of_split_csv(tmp_path: Path) -> None:
    assert names(list(cut_test_set(publish_bundle(tmp_path, n=3, split=SPLIT)))) == ["cat/1.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (SPLIT.replace(f"test,2,cat,c.png,{SHA}\n", ""), "names 2 test samples, the manifest says 3"),
        (SPLIT + f"test,3,cat,d.png,{SHA}\n", "names 4 test samples, the manifest says 3"),
        (SPLIT.replace("test,0", "test,9"), "names 3 test samples, the manifest says 3"),
        (SPLIT.replace(",c.png", ""), "line 5: not a readable split"),
        (SPLIT.replace(f"c.png,{SHA}", "c.png,0123"), "line 5: not a readable split"),
        ("", "line 1: not a readable split"),
    ],
)
def test_a_split_csv_must_name_every_test_sample(tmp_path: Path, split: str, said: str) -> None:
    with pytest.raises((SourceError, BundleError), match=rf"split\.csv.* {said}.*; publish"):
        list(cut_test_set(publish_bundle(tmp_path, n=3, split=split)))


# Labels


def photos(tmp_path: Path, *folders: str) -> Path:
    for number, folder in enumerate(folders):
        write_image(tmp_path / "photos" / folder / f"{number}.png", number)
    return tmp_path / "photos"


def test_labels_become_numbers_of_the_models_classes(tmp_path: Path) -> None:
    (chunk,) = read(photos(tmp_path, "cat", "bee"), PHOTOS)
    assert chunk.classes == CLASSES
    assert chunk.labels is not None
    assert chunk.labels.tolist() == [1, 2]


def test_folders_that_are_not_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"photos holds labels .*: cats, wasp; its classes are ant, bee, cat; "):
        read(photos(tmp_path, "cats", "bee", "wasp"), PHOTOS)


def test_labels_of_a_csv_are_checked_before_the_first_chunk(tmp_path: Path) -> None:
    rows = [("good", "ant")] * 1_500
    path = write_csv(tmp_path / "x.csv", ("text", "label"), *rows, ("bad", "0"))
    with pytest.raises(LabelError, match=r"not classes of the model: 0; its classes are ant, bee, cat"):
        next(read_source(path, REVIEWS, TextColumns(label="label")))


def test_labels_of_an_npz_that_are_not_classes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 4, 4, 1), np.uint8), y=np.array(["ant", "wasp"]))
    with pytest.raises(LabelError, match=r"x\.npz holds labels that are not classes of the model: wasp"):
        read(tmp_path / "x.npz", ARRAYS)


def test_a_label_map_works_for_every_kind_of_source(tmp_path: Path) -> None:
    mapping = {"cats": "cat", "0": "bee"}
    folder = photos(tmp_path, "cats", "ant")
    table = write_csv(tmp_path / "x.csv", ("text", "label"), ("good", "0"), ("bad", "cats"))
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 4, 4, 1), np.uint8), y=np.array(["cats", "ant"]))
    assert labels(read(folder, PHOTOS, mapping=mapping)) == ["ant", "cat"]
    assert labels(read(table, REVIEWS, "label", mapping=mapping)) == ["bee", "cat"]
    assert labels(read(tmp_path / "x.npz", ARRAYS, mapping=mapping)) == ["cat", "ant"]


def test_ignored_labels_load_a_source_without_labels(tmp_path: Path) -> None:
    folder = photos(tmp_path, "cats", "ant")
    table = write_csv(tmp_path / "x.csv", ("text", "label"), ("good", "0"), ("bad", ""))
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 4, 4, 1), np.uint8), y=np.array(["wasp", "ant"]))
    for path, preparation in ((folder, PHOTOS), (table, REVIEWS), (tmp_path / "x.npz", ARRAYS)):
        (chunk,) = read(path, preparation, "label", ignore=True)
        assert (len(chunk.arrays), chunk.labels, chunk.classes) == (2, None, None)


@pytest.mark.parametrize("y", [[2, 0], [2.0, 0.0], [[2], [0]], [[0, 0, 1], [1, 0, 0]], ["cat", "ant"]])
def test_labels_of_an_npz_are_accepted_in_every_form(tmp_path: Path, y: list[Any]) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array(y))
    assert labels(read(tmp_path / "x.npz", ARRAYS)) == ["cat", "ant"]


def test_an_ignored_label_column_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_csv(tmp_path / "x.csv", ("text", "label"), ("good", "ant"))
    with caplog.at_level(logging.WARNING):
        (chunk,) = read(path, REVIEWS)
    assert chunk.labels is None
    assert "x.csv: the column label is ignored; --label-column label loads the labels" in caplog.text
    caplog.clear()
    read(path, REVIEWS, "label")
    read(path, REVIEWS, ignore=True)
    assert caplog.text == ""


# Errors


def test_class_folders_one_level_too_deep_are_named(tmp_path: Path) -> None:
    for number, name in enumerate(("train/cat", "train/ant", "test/cat")):
        write_image(tmp_path / "pets" / name / "x.png", number)
    with pytest.raises(
        FilesError,
        match=rf"only one level below its sub-folders, for example in {tmp_path}/pets/test/cat; the sub-folders must "
        rf"be the classes: give {tmp_path}/pets/test or {tmp_path}/pets/train, "
        "or move all class folders into one folder",
    ):
        read(tmp_path / "pets", PHOTOS)


def run_advice(error: BaseException, cwd: Path) -> None:
    """Run the python3 command in an error message, like a person who pastes it."""
    (command,) = re.findall(r'python3 (-X utf8 -c ".*?"[^;]*|-c ".*?"[^;]*)', str(error))
    subprocess.run(f"{sys.executable} {command}", shell=True, cwd=cwd, check=True)  # noqa: S602 - as pasted


@pytest.mark.parametrize(("suffix", "delimiter", "called"), [("tsv", "\t", "tabs"), ("csv", ";", "semicolons")])
def test_the_error_for_tabs_or_semicolons_gives_a_command(
    tmp_path: Path, suffix: str, delimiter: str, called: str
) -> None:
    path = tmp_path / f"my x.{suffix}"
    path.write_text(f'"text"{delimiter}label\nA good, bad film{delimiter}ant\n', encoding="utf-8-sig")
    with pytest.raises(FilesError, match=rf"my x\.{suffix} is separated by {called}, commas are needed") as raised:
        read(path, REVIEWS, "label")
    run_advice(raised.value, tmp_path)
    (chunk,) = read(tmp_path / "my x-commas.csv", REVIEWS, "label")
    assert (chunk.arrays.tolist(), labels([chunk])) == ([[0, 0, 0, 1, 2, 4, 5, 6]], ["ant"])


def test_a_text_with_an_unquoted_comma_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\nfine\ngood, but bad\n")
    with pytest.raises(FilesError, match=r"x\.csv, line 3: more values than the header has columns; quote texts"):
        read(tmp_path / "x.csv", REVIEWS)


@pytest.mark.parametrize("shape", [(4, 5, 1), (4, 5), (4, 5, 3)])
def test_the_error_for_an_image_names_the_page_with_an_example(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A command that ignores the values as in training would store a wrong image without an error."""
    write_image(tmp_path / "x.png", 9)
    said = r"toys takes no image files: .*values as in training \(docs/own-data\.md has an example\).*image-folder"
    with pytest.raises(SourceError, match=said):
        read(tmp_path / "x.png", how(shape))


def test_the_code_in_the_docs_converts_an_image_for_digits(tmp_path: Path) -> None:
    page = (REPO / "docs/own-data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^      import numpy.*\n.*$", page, re.MULTILINE)
    for shade, value in ((0, 16), (255, 0)):
        write_image(tmp_path / "x.png", shade)
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=True)
        (chunk,) = read(tmp_path / "x.npy", how((8, 8, 1)))
        assert (chunk.arrays.dtype.name, chunk.arrays.min(), chunk.arrays.max()) == ("uint8", value, value)


@pytest.mark.parametrize(
    ("preparation", "said"), [(how((9,)), r"as an \.npy or \.npz file"), (REVIEWS, "made from texts")]
)
def test_an_image_for_another_model_says_what_is_needed(tmp_path: Path, preparation: Preparation, said: str) -> None:
    write_image(tmp_path / "x.png", 9)
    with pytest.raises(SourceError, match=said):
        read(tmp_path / "x.png", preparation)


def test_an_npz_without_x_is_refused_with_its_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=np.zeros(1), y_train=np.zeros(1))
    with pytest.raises(SourceError, match=r"x\.npz holds x_train, y_train; x is needed, and y for labels: np\.savez"):
        read(tmp_path / "x.npz", ARRAYS)


def test_csv_with_too_many_different_labels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypredict.source.MAX_LABELS", 100)
    path = write_csv(tmp_path / "x.csv", ("text", "label"), *[("good", f"id {number}") for number in range(101)])
    with pytest.raises(SourceError, match=r"x\.csv holds over 100 different labels in the column 'label'"):
        read(path, REVIEWS, "label")


def test_fifo_in_a_folder_is_named_and_the_other_images_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "photos/a.png", 1)
    os.mkfifo(tmp_path / "photos/b.png")
    (tmp_path / "photos/c.png").symlink_to("/dev/zero")
    assert names(read(tmp_path / "photos", PHOTOS)) == ["a.png"]
    for name in ("b.png", "c.png"):
        assert f"skipped: {tmp_path}/photos/{name} is not a readable image: not a regular file" in caplog.text
