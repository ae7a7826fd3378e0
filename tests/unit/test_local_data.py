"""The user's own datasets: folders of images, CSV files of texts, arrays. Errors name the broken part."""

import csv
import errno
import logging
import os
import shutil
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from bundle import BundleError
from bundle.inputs.arrays import ArraysError
from bundle.inputs.preprocessing import (
    RESERVED_WORDS,
    ImagePreprocessing,
    TextPreprocessing,
    prepare_image,
    prepare_text,
    token_numbers,
)
from pyml import PymlError
from pyml.config import Settings
from pyml.datasets.dataset import save_split
from pyml.datasets.load import load_dataset
from pyml.datasets.local import build_vocabulary
from pyml.datasets.samples import StoredSamples
from pyml.experiment.data_spec import ImageFolder, Npy, Npz, TextCsv

FOLDER = ImageFolder(
    name="shapes", kind="image-folder", path="shapes", height=6, width=8, validation=0.2, test=0.2, split_seed=0
)
CSV = TextCsv(name="reviews", kind="text-csv", path="reviews.csv", words=30, length=9, validation=0.2, test=0.2)
NPZ = Npz(name="mine", kind="npz", path="mine.npz", validation=0.2, test=0.2)
OFFICIAL = Npz(name="mine", kind="npz", path="mine.npz", validation=0.2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", models=tmp_path / "models")


@pytest.fixture
def shapes(settings: Settings) -> Path:
    """Write twenty images of each of three classes, all with different content."""
    folder = settings.data_dir / "shapes"
    rng = np.random.default_rng(0)
    for name in ("circle", "square", "triangle"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


def test_a_folders_sub_folders_are_its_classes(settings: Settings, shapes: Path) -> None:
    dataset = load_dataset(FOLDER, settings)
    assert dataset.classes == ("circle", "square", "triangle")
    assert [len(part.y) for part in (dataset.train, dataset.validation, dataset.test)] == [36, 12, 12]
    assert np.bincount(dataset.test.y).tolist() == [4, 4, 4]


def test_images_are_prepared_as_in_serving(settings: Settings, shapes: Path) -> None:
    test = load_dataset(FOLDER, settings).test
    how = load_dataset(FOLDER, settings).preprocessing
    assert isinstance(how, ImagePreprocessing)
    for sample, label, source in zip(test.x[:], test.y, test.sources, strict=True):
        assert np.array_equal(sample, prepare_image(shapes / source, how))
        assert source.startswith(("circle", "square", "triangle")[label])


def test_grayscale_images_have_one_channel(settings: Settings, shapes: Path) -> None:
    dataset = load_dataset(FOLDER.model_copy(update={"color": "grayscale"}), settings)
    assert dataset.input.shape == dataset.train.x.shape[1:] == (6, 8, 1)


def test_images_in_a_file_give_the_same_dataset(
    settings: Settings, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = FOLDER.model_copy(update={"height": 100, "width": 100})  # 60 x 30,000 bytes
    in_memory, stored = (load_dataset(large, settings.model_copy(update={"memory_mb": mb})) for mb in (2, 1))
    assert isinstance(in_memory.train.x, np.ndarray)
    assert isinstance(stored.train.x, StoredSamples)
    assert stored.fingerprint == in_memory.fingerprint


def test_51_other_files_are_ignored_and_broken_images_skipped(
    settings: Settings, shapes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shapes / "README.md").write_text("no image")
    (shapes / "circle/notes.txt").write_text("no image")
    (shapes / "beside.png").write_bytes((shapes / "circle/00.png").read_bytes())
    (shapes / "circle/empty.png").write_bytes(b"")
    (shapes / "square/torn.png").write_bytes((shapes / "square/00.png").read_bytes()[:200])
    (shapes / "triangle/text.jpg").write_text("no image")
    with caplog.at_level(logging.WARNING, "pyml"):
        dataset = load_dataset(FOLDER, settings)
    assert sum(len(part.y) for part in (dataset.train, dataset.validation, dataset.test)) == 60
    said = [record.getMessage() for record in caplog.records]
    assert [any(name in line for line in said) for name in ("empty.png", "torn.png", "text.jpg")] == [True] * 3
    assert said[-1].endswith("shapes: 3 of 63 images were skipped")
    assert "notes.txt" not in caplog.text


def test_failure_of_the_machine_skips_no_image(
    settings: Settings, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the image the test set would be another one."""

    def open_but_one(path: Path) -> IO[bytes]:
        if path.name == "07.png":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return path.open("rb")

    monkeypatch.setattr("bundle.inputs.preprocessing.open_regular", open_but_one)
    with pytest.raises(BundleError, match=r"circle/07\.png cannot be read \(Input/output error\); .* run it again$"):
        load_dataset(FOLDER, settings)
    large, little = FOLDER.model_copy(update={"height": 200, "width": 200}), {"memory_mb": 1}
    with pytest.raises(BundleError, match=r"circle/07\.png cannot be read"):  # also when they are written to a file
        load_dataset(large, settings.model_copy(update=little))


def test_51_images_of_all_formats_are_read(settings: Settings, shapes: Path) -> None:
    image = Image.open(shapes / "circle/00.png")
    for number, (mode, kind) in enumerate(
        [("CMYK", "jpg"), ("P", "gif"), ("L", "bmp"), ("RGBA", "webp"), ("1", "tiff")]
    ):
        image.rotate(90 * number).convert(mode).save(shapes / f"circle/kind{number}.{kind}")
    Image.new("RGB", (1, 1)).save(shapes / "circle/point.png")
    dataset = load_dataset(FOLDER, settings)
    assert sum(len(part.y) for part in (dataset.train, dataset.validation, dataset.test)) == 66


def test_hidden_folders_are_not_classes(settings: Settings, shapes: Path) -> None:
    shutil.copytree(shapes / "circle", shapes / ".thumbnails")
    assert load_dataset(FOLDER, settings).classes == ("circle", "square", "triangle")


def test_file_names_that_are_not_utf_8_are_escaped(settings: Settings, shapes: Path, tmp_path: Path) -> None:
    (shapes / "circle/00.png").rename(shapes / "circle" / os.fsdecode(b"caf\xe9.png"))
    save_split(tmp_path / "split.csv", load_dataset(FOLDER, settings))
    assert r"circle/caf\xe9.png" in (tmp_path / "split.csv").read_text(encoding="utf-8")


def test_a_class_folder_name_that_is_not_utf_8_is_refused(settings: Settings, shapes: Path) -> None:
    (shapes / "circle").rename(shapes / os.fsdecode(b"caf\xe9"))
    with pytest.raises(PymlError, match=r"the name of the class folder caf\\xe9 is not UTF-8; rename it"):
        load_dataset(FOLDER, settings)


def test_a_copy_of_a_test_image_is_not_in_the_training_set(settings: Settings, shapes: Path) -> None:
    for path in sorted((shapes / "circle").iterdir()):
        (path.parent / f"again{path.name}").write_bytes(path.read_bytes())
    dataset = load_dataset(FOLDER, settings)
    test = {sample.tobytes() for sample in dataset.test.x[:]}
    others = [sample.tobytes() for part in (dataset.train, dataset.validation) for sample in part.x[:]]
    assert len(dataset.test.y) == 16
    assert not test & set(others)


def test_13_the_error_for_train_and_test_folders_says_what_to_do(settings: Settings, shapes: Path) -> None:
    shutil.copytree(shapes, settings.data_dir / "other/train")
    shutil.move(shapes, settings.data_dir / "other/test")
    other = settings.data_dir / "other"
    with pytest.raises(BundleError, match=rf"give {other}/test or {other}/train, or move all class folders into one"):
        load_dataset(FOLDER.model_copy(update={"path": "other"}), settings)
    assert load_dataset(FOLDER.model_copy(update={"path": "other/train"}), settings).classes[0] == "circle"


@pytest.mark.parametrize("layout", ["no sub-folders", "one class", "empty"])
def test_a_folder_without_class_folders_is_refused_in_one_sentence(
    settings: Settings, shapes: Path, layout: str
) -> None:
    target = settings.data_dir / "other"
    target.mkdir()
    if layout == "one class":
        (shapes / "circle").rename(target / "circle")
    elif layout == "no sub-folders":
        for path in (shapes / "circle").iterdir():
            path.rename(target / path.name)
    with pytest.raises((PymlError, BundleError), match=r"each in its own sub-folder|holds no image"):
        load_dataset(FOLDER.model_copy(update={"path": "other"}), settings)


def test_too_few_images_are_refused_in_one_sentence(settings: Settings, shapes: Path) -> None:
    for path in (shapes / "circle").glob("0[1-9].png"):
        path.unlink()
    for path in (shapes / "circle").glob("1*.png"):
        path.unlink()
    with pytest.raises(PymlError, match="shapes has 41 samples of 3 classes, which cannot be split"):
        load_dataset(FOLDER, settings)


def test_paths_are_searched_in_data_and_working_directory(
    settings: Settings, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settings.data_dir)
    elsewhere = settings.model_copy(update={"data_dir": Path("absent")})
    assert load_dataset(FOLDER, elsewhere).fingerprint == load_dataset(FOLDER, settings).fingerprint
    absolute = FOLDER.model_copy(update={"path": str(shapes)})
    assert load_dataset(absolute, elsewhere).fingerprint == load_dataset(FOLDER, settings).fingerprint


def test_the_error_for_a_missing_path_names_both_places(settings: Settings) -> None:
    with pytest.raises(PymlError, match=r"data/shapes or shapes does not exist; .*PYML_DATA_DIR.*working directory"):
        load_dataset(FOLDER, settings)


GOOD, BAD = "good great fine nice lovely".split(), "bad awful dull poor sad".split()


def reviews(n: int = 60) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(n):
        words, label = ((GOOD, "yes"), (BAD, "no"))[number % 2]
        rows.append((" ".join([f"film{number}", *rng.choice(words, 4)]), label))
    return rows


def put_csv(settings: Settings, rows: list[tuple[str, str]], encoding: str = "utf-8") -> Path:
    settings.data_dir.mkdir(exist_ok=True)
    path = settings.data_dir / "reviews.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def test_texts_are_prepared_as_in_serving(settings: Settings) -> None:
    rows = reviews()
    put_csv(settings, rows)
    dataset = load_dataset(CSV, settings)
    assert isinstance(dataset.preprocessing, TextPreprocessing)
    numbers = token_numbers(dataset.words)
    for sample, label, source in zip(dataset.test.x[:], dataset.test.y, dataset.test.sources, strict=True):
        text, answer = rows[int(source.removeprefix("line ")) - 2]
        assert np.array_equal(sample, prepare_text(text, dataset.preprocessing, numbers))
        assert dataset.classes[label] == answer
    assert (dataset.input.dtype, dataset.input.shape, dataset.classes) == ("int32", (9,), ("no", "yes"))


def test_the_vocabulary_holds_only_words_of_the_training_set(settings: Settings) -> None:
    rows = reviews()
    put_csv(settings, rows)
    dataset = load_dataset(CSV.model_copy(update={"words": 5000}), settings)
    trained = {rows[int(source.removeprefix("line ")) - 2][0] for source in dataset.train.sources}
    assert set(dataset.words) - set(RESERVED_WORDS) == {word for text in trained for word in text.split()}
    assert dataset.n_words == len(dataset.words)


def test_the_vocabulary_is_ordered_by_frequency_and_alphabet() -> None:
    texts = [["d", "a", "c"], ["c", "a"], ["c", "b"]]
    assert build_vocabulary(texts, 7) == [*RESERVED_WORDS, "c", "a", "b"]


def test_words_of_test_text_copies_are_not_in_the_vocabulary(settings: Settings) -> None:
    rows = reviews()
    put_csv(settings, [*rows, *rows])
    dataset = load_dataset(CSV.model_copy(update={"words": 5000}), settings)
    tested = {([*rows, *rows])[int(source.removeprefix("line ")) - 2][0].split()[0] for source in dataset.test.sources}
    assert len(tested) > 12
    assert not tested & set(dataset.words)


def test_texts_that_differ_only_in_punctuation_are_copies(settings: Settings) -> None:
    rows = reviews()
    put_csv(settings, rows + [(f"{text.upper()}!!", label) for text, label in rows])
    dataset = load_dataset(CSV, settings)
    test = {sample.tobytes() for sample in dataset.test.x[:]}
    assert len(dataset.test.y) == 24
    assert not test & {sample.tobytes() for part in (dataset.train, dataset.validation) for sample in part.x[:]}


def test_texts_that_are_equal_after_preparation_are_copies(settings: Settings) -> None:
    put_csv(settings, [(f"rare{number} {'good' if number % 2 else 'bad'}", "ny"[number % 2]) for number in range(60)])
    with pytest.raises(PymlError, match=r"copy of a test sample|no training sample of"):
        load_dataset(
            CSV.model_copy(update={"words": 6}), settings
        )  # every rare word is unknown, so only two texts differ


def test_52_a_csv_with_bom_quotes_and_empty_lines_is_read(settings: Settings) -> None:
    path = put_csv(settings, [(f'{text}, "quoted"', label) for text, label in reviews()], "utf-8-sig")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\r\n\r\n", 3))
    dataset = load_dataset(CSV, settings)
    assert sum(len(part.y) for part in (dataset.train, dataset.validation, dataset.test)) == 60


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_column": "review"}, "has no column 'review'; its header names text, label"),
        ({"label_column": "stars"}, "has no column 'stars'"),
    ],
)
def test_52_a_missing_column_is_named(settings: Settings, change: dict[str, Any], said: str) -> None:
    put_csv(settings, reviews())
    with pytest.raises(BundleError, match=said):
        load_dataset(CSV.model_copy(update=change), settings)


def test_52_a_wrong_encoding_is_named_with_its_line(settings: Settings) -> None:
    put_csv(settings, [("fine", "yes"), ("schön", "yes")], "latin-1")
    with pytest.raises(BundleError, match=r"reviews\.csv, line 3: not UTF-8"):
        load_dataset(CSV, settings)


def test_52_a_row_without_a_label_is_named_with_its_line(settings: Settings) -> None:
    path = put_csv(settings, reviews())
    with path.open("a") as file:
        file.write("lonely\r\n")
    with pytest.raises(BundleError, match=r"reviews\.csv, line 62: the text or the label is empty or missing"):
        load_dataset(CSV, settings)


@pytest.mark.parametrize(("delimiter", "called"), [("\t", "tabs"), (";", "semicolons")])
def test_13_the_error_for_another_delimiter_says_how_to_convert(
    settings: Settings, delimiter: str, called: str
) -> None:
    path = put_csv(settings, reviews())
    path.write_text(path.read_text().replace(",", delimiter))
    with pytest.raises(
        BundleError, match=rf"reviews\.csv is separated by {called}, commas are needed; convert it: pyth"
    ):
        load_dataset(CSV, settings)


def test_14_quantities_as_csv_labels_are_called_regression(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    put_csv(settings, [(text, f"{rng.normal():.3f}") for text, _ in reviews()])
    with pytest.raises(PymlError, match="reviews has 60 samples of 60 classes, all of them numbers") as raised:
        load_dataset(CSV, settings)
    assert "looks like regression, which is not supported" in str(raised.value)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize("rows", [[], [("fine", "yes")] * 9])
def test_a_csv_with_fewer_than_two_classes_is_refused(settings: Settings, rows: list[tuple[str, str]]) -> None:
    put_csv(settings, rows)
    with pytest.raises(PymlError, match=r"reviews\.csv holds labels of [01] classes; two or more are needed"):
        load_dataset(CSV, settings)


def test_texts_without_words_are_refused_in_one_sentence(settings: Settings) -> None:
    put_csv(settings, [("?" * (number + 1), "ny"[number % 2]) for number in range(60)])
    with pytest.raises(PymlError, match=r"reviews\.csv: the training texts hold no word|no training sample of"):
        load_dataset(CSV, settings)


def put_npz(settings: Settings, **arrays: Any) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    np.savez(settings.data_dir / "mine.npz", **arrays)


X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3


def test_arrays_are_not_changed(settings: Settings) -> None:
    put_npz(settings, x=X, y=Y)
    dataset = load_dataset(NPZ, settings)
    assert (dataset.input.dtype, dataset.input.shape) == ("float32", (4,))
    assert dataset.classes == ("0", "1", "2")
    rows = [int(source.removeprefix("row ")) for source in dataset.train.sources]
    assert np.array_equal(dataset.train.x[:], X[rows])
    assert np.array_equal(dataset.train.y, Y[rows])


def test_labels_can_be_names_or_integers(settings: Settings) -> None:
    put_npz(settings, x=X, y=np.array(["b", "a", "c"])[Y])
    assert load_dataset(NPZ, settings).classes == ("a", "b", "c")
    put_npz(settings, x=X, y=np.array([7, -1, 30])[Y])
    dataset = load_dataset(NPZ, settings)
    assert dataset.classes == ("-1", "7", "30")
    assert set(dataset.test.y) == {0, 1, 2}


@pytest.mark.parametrize("form", ["float", "column", "one-hot"])
def test_12_labels_can_be_whole_floats_a_column_or_one_hot(settings: Settings, form: str) -> None:
    put_npz(settings, x=X, y=Y)
    wanted = load_dataset(NPZ, settings)
    put_npz(settings, x=X, y={"float": Y.astype(np.float32), "column": Y[:, np.newaxis], "one-hot": np.eye(3)[Y]}[form])
    assert load_dataset(NPZ, settings).fingerprint == wanted.fingerprint


def test_12_bool_labels_are_the_numbers_0_and_1(settings: Settings) -> None:
    put_npz(settings, x=X, y=Y > 0)
    assert load_dataset(NPZ, settings).classes == ("0", "1")


@pytest.mark.parametrize("n_values", [60, 25])
def test_14_quantities_as_labels_are_called_regression(settings: Settings, n_values: int) -> None:
    put_npz(settings, x=X, y=np.arange(60) % n_values * 1000)
    with pytest.raises(PymlError, match=rf"mine has 60 samples of {n_values} classes, all of them numbers") as raised:
        load_dataset(NPZ, settings)
    assert "looks like regression, which is not supported" in str(raised.value)
    assert len(str(raised.value)) < 250


def test_14_a_class_of_one_sample_is_named(settings: Settings) -> None:
    put_npz(settings, x=X, y=np.array(["a", "b"] + ["c"] * 58))
    with pytest.raises(PymlError, match="each split needs at least one sample of each class, and a has 1 in all"):
        load_dataset(NPZ, settings)


def test_an_official_test_set_stays_whole(settings: Settings) -> None:
    put_npz(settings, x_train=X[:40], y_train=Y[:40], x_test=X[40:], y_test=Y[40:])
    dataset = load_dataset(OFFICIAL, settings)
    assert np.array_equal(dataset.test.x[:], X[40:])
    assert (len(dataset.train.y), len(dataset.validation.y)) == (32, 8)


def test_samples_and_labels_may_be_two_npy_files(settings: Settings) -> None:
    settings.data_dir.mkdir()
    np.save(settings.data_dir / "x.npy", X)
    np.save(settings.data_dir / "y.npy", Y)
    put_npz(settings, x=X, y=Y)
    npy = Npy(name="mine", kind="npy", path="x.npy", labels="y.npy", validation=0.2, test=0.2)
    assert load_dataset(npy, settings).fingerprint == load_dataset(NPZ, settings).fingerprint


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("bool", "uint8"), ("float16", "float32"), ("float64", "float32"), ("int64", "int32"), (">i4", "int32")],
)
def test_other_dtypes_are_cast_if_the_values_fit(settings: Settings, given: str, wanted: str) -> None:
    x = (np.random.default_rng(0).integers(0, 2, (60, 30))).astype(given)
    put_npz(settings, x=x, y=Y)
    dataset = load_dataset(NPZ, settings)
    assert dataset.test.x.dtype == wanted
    assert dataset.test.x.dtype.isnative
    rows = [int(source.removeprefix("row ")) for source in dataset.test.sources]
    assert np.array_equal(dataset.test.x[:], x[rows])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "holds x; needed are x and y"),
        ({"x_train": X, "y_train": Y, "x": X}, "needed are x and y"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}, "no fraction `test`"),
        ({"x": X, "y": Y[:-1]}, r"60 samples and labels int64 \(59,\); one whole number or name for each sample"),
        ({"x": X, "y": Y + 0.5}, "looks like regression, which is not supported"),
        ({"x": X, "y": np.full((60, 3), 0.3)}, r"labels float64 \(60, 3\), whose rows are not one-hot"),
        ({"x": Y, "y": Y}, r"samples int64 \(60,\); numbers of shape \(n, ...\)"),
        ({"x": X.astype(complex), "y": Y}, "samples complex128"),
        ({"x": X.astype("datetime64[s]"), "y": Y}, "samples datetime64"),
        ({"x": X[:, :0], "y": Y}, r"samples float32 \(60, 0\)"),
        ({"x": np.full_like(X, np.nan), "y": Y}, "not finite"),
        ({"x": X.astype(float) * 1e300, "y": Y}, "do not fit into float32"),
        ({"x": np.full((60, 4), 2**40), "y": Y}, "do not fit into int32"),
        ({"x": X, "y": np.zeros(60, int)}, "holds labels of 1 classes"),
        ({"x": np.float32(3), "y": Y}, r"samples float32 \(\); numbers of shape \(n, ...\)"),
        (
            {"x": X.reshape((60, 4) + (1,) * 8), "y": Y},
            r"samples float32 \(60, 4, 1, 1, 1, 1, 1, 1, 1, 1\); numbers of",
        ),
        ({"x": np.array([[object()]] * 60), "y": Y}, r"is not a \.npz file of plain numbers"),
    ],
)
def test_invalid_arrays_are_refused_with_what_is_needed(settings: Settings, arrays: dict[str, Any], said: str) -> None:
    put_npz(settings, **arrays)
    with pytest.raises((PymlError, ArraysError), match=said) as raised:
        load_dataset(NPZ, settings)
    assert "\n" not in str(raised.value)


def test_other_arrays_of_an_npz_are_not_read(settings: Settings) -> None:
    put_npz(settings, x=X, y=Y)
    wanted = load_dataset(NPZ, settings)
    names = np.array([{"a": 1}], object)  # needs pickle
    put_npz(settings, x=X, y=Y, names=names)
    assert load_dataset(NPZ, settings).fingerprint == wanted.fingerprint
    put_npz(settings, x=X, names=names)
    with pytest.raises(PymlError, match=r"mine\.npz holds x, names; needed are x and y"):
        load_dataset(NPZ, settings)
    put_npz(settings)
    with pytest.raises(PymlError, match=r"mine\.npz holds nothing; needed are x and y"):
        load_dataset(NPZ, settings)


def test_train_and_test_samples_must_have_the_same_shape(settings: Settings) -> None:
    put_npz(settings, x_train=X, y_train=Y, x_test=X[:, :2], y_test=Y)
    with pytest.raises(PymlError, match=r"samples float32 \(60, 2\); numbers of shape \(n, ...\) are needed, the same"):
        load_dataset(OFFICIAL, settings)


def test_a_class_without_training_samples_is_named(settings: Settings) -> None:
    put_npz(settings, x_train=X[:40], y_train=Y[:40] % 2, x_test=X[40:], y_test=Y[40:])
    with pytest.raises(PymlError, match="mine: no training sample of 2 is left"):
        load_dataset(OFFICIAL, settings)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_file_without_arrays_is_refused_in_one_sentence(settings: Settings, content: bytes) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "mine.npz").write_bytes(content)
    with pytest.raises(ArraysError, match=r"mine\.npz is not a \.npz file of plain numbers"):
        load_dataset(NPZ, settings)


def test_a_damaged_compressed_npz_is_refused_in_one_sentence(settings: Settings) -> None:
    settings.data_dir.mkdir()
    path = settings.data_dir / "mine.npz"
    np.savez_compressed(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[60:160] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(ArraysError, match=r"mine\.npz is not a \.npz file of plain numbers"):
        load_dataset(NPZ, settings)


def test_an_npz_called_npy_is_explained(settings: Settings) -> None:
    put_npz(settings, x=X, y=Y)
    npy = Npy(name="mine", kind="npy", path="mine.npz", labels="mine.npz", validation=0.2, test=0.2)
    with pytest.raises(ArraysError, match=r"is not a \.npy file of plain numbers or names \(its content is \.npz"):
        load_dataset(npy, settings)


def test_fifo_in_the_place_of_a_dataset_is_refused(settings: Settings) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    for name in ("mine.npz", "reviews.csv"):
        os.mkfifo(settings.data_dir / name)
    for data in (NPZ, CSV):
        with pytest.raises(BundleError, match=rf"{data.path} .*not a regular file"):
            load_dataset(data, settings)
