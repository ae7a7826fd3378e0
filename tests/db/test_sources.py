"""Load files of every kind into the database, prepared as the model's manifest says."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import CLASSES, forge, publish_bundle, publish_images, publish_texts, write_image
from support.workers import rows, worker_for

from bundle import BundleError
from bundle.inputs.arrays import ArraysError
from bundle.verify import Bundle, open_bundle
from pypredict import PypredictError
from pypredict.chunk import Chunk, cut
from pypredict.codec import MAX_PAYLOAD_BYTES, CodecError, decode
from pypredict.load import bundle_at, load_chunks, preparation
from pypredict.predict_items import predict_items
from pypredict.source import SourceError, TextColumns, cut_test_set, read_source


def load(engine: sa.Engine, models: Path, dataset: str, path: Path, columns: TextColumns | None = None) -> None:
    how = preparation(engine, models, dataset)
    load_chunks(engine, str(path), read_source(path, how, columns or TextColumns()), None)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def toys(models: Path) -> Bundle:
    return publish_bundle(models)


def test_a_bundle_and_its_pointer_open_the_same_bundle(models: Path, toys: Bundle) -> None:
    assert bundle_at(toys.path) == bundle_at(models / "current/toys.json")
    assert bundle_at(models) is None


def test_class_numbers_of_an_npz_become_labels(engine: sa.Engine, models: Path, toys: Bundle, tmp_path: Path) -> None:
    x = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
    np.savez(tmp_path / "mine.npz", x=x, y=np.array([0, 1, 2]))
    load(engine, models, "toys", tmp_path / "mine.npz")
    assert rows(engine, "SELECT label FROM ml.inputs ORDER BY sample_no") == [(name,) for name in CLASSES]


def test_33_labels_by_name_are_compared_by_name(engine: sa.Engine, models: Path, toys: Bundle, tmp_path: Path) -> None:
    x = np.zeros((3, 4, 4, 1), np.uint8)
    x[:, 0, 0, 0] = [0, 1, 2]
    np.savez(tmp_path / "mine.npz", x=x, y=np.array(["cat", "bee", "ant"]))  # the model predicts the reverse order
    worker = worker_for(engine, models)
    worker.run(until_empty=True)
    load(engine, models, "toys", tmp_path / "mine.npz")
    worker_for(engine, models).run(until_empty=True)
    assert rows(engine, "SELECT n, n_correct FROM ml.accuracy WHERE NOT in_test_set") == [(3, 1)]


def test_the_same_file_is_stored_once(engine: sa.Engine, models: Path, toys: Bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.zeros((2500, 4, 4, 1), np.uint8))
    for _ in range(2):
        load(engine, models, "toys", tmp_path / "mine.npy")
    # Two of the three chunks hold the same 1,000 zeros, and equal content is stored as one chunk.
    assert rows(engine, "SELECT n_inputs FROM ml.chunk ORDER BY chunk_id") == [(1000,), (500,)]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((2, 4, 4, 1), 0.5), "not whole numbers; uint8 is needed, 0 to 255, as in training"),
        (np.full((2, 4, 4, 1), 256), "do not fit into uint8"),
        (np.zeros((2, 5, 4), np.uint8), r"one sample \(4, 4, 1\) or a stack \(n, 4, 4, 1\)"),
        (np.zeros((0, 4, 4, 1), np.uint8), r"one sample \(4, 4, 1\) or a stack \(n, 4, 4, 1\)"),
        (np.array([None, "x"]), "Object arrays cannot be loaded"),
        (np.zeros((2, 4, 4), [("a", "u1")]), "plain numbers are needed"),
        (np.zeros((2, 4, 4, 1), np.complex64), "plain numbers are needed"),
    ],
    ids=["42_fractions", "42_large", "32_other_shape", "45_empty", "40_object", "40_structured", "43_complex"],
)
def test_arrays_that_do_not_fit_are_refused_at_load(
    engine: sa.Engine, models: Path, toys: Bundle, tmp_path: Path, array: np.ndarray, said: str
) -> None:
    np.save(tmp_path / "mine.npy", array, allow_pickle=True)
    with pytest.raises(ArraysError, match=rf"mine\.npy .*{said}"):
        load(engine, models, "toys", tmp_path / "mine.npy")
    assert rows(engine, "SELECT * FROM ml.chunk") == []


@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 4), (1, 4, 4), (1, 4, 4, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64", "float32", "bool"])
def test_arrays_are_accepted_in_every_form_of_training(
    engine: sa.Engine, models: Path, toys: Bundle, tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = np.arange(16).reshape(4, 4) % 2
    np.save(tmp_path / "mine.npy", pixels.reshape(shape).astype(dtype))
    load(engine, models, "toys", tmp_path / "mine.npy")
    ((payload,),) = rows(engine, "SELECT payload FROM ml.input")
    assert decode(payload).dtype == np.uint8
    assert np.array_equal(decode(payload)[..., 0], pixels)


def broken_files() -> dict[str, bytes]:
    x = np.zeros((3, 4, 4, 1), np.uint8)
    array, archive, unlabelled, flat, giant = (io.BytesIO() for _ in range(5))
    np.save(array, x)
    np.savez(archive, x=x, y=np.arange(3))
    np.savez(unlabelled, x=x, y=np.array([], np.int64))
    np.savez(flat, x=x, y=np.int64(1))
    header = {"descr": "|u1", "fortran_order": False, "shape": (3 * 10**12, 4, 4, 1)}
    np.lib.format.write_array_header_1_0(giant, header)
    spoilt = archive.getvalue().replace(bytes(48), bytes(47) + b"x")
    return {
        "empty.npy": b"",
        "empty.npz": b"",
        "truncated.npz": archive.getvalue()[:-30],
        "checksum.npz": spoilt,
        "archive.npy": archive.getvalue(),
        "array.npz": array.getvalue(),
        "giant.npy": giant.getvalue(),
        "short.npy": array.getvalue()[:-1],
        "no_labels.npz": unlabelled.getvalue(),
        "one_label.npz": flat.getvalue(),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_array_file_is_refused_and_named(
    engine: sa.Engine, models: Path, toys: Bundle, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(broken_files()[name])
    with pytest.raises(ArraysError, match=name.replace(".", r"\.")) as caught:
        load(engine, models, "toys", tmp_path / name)
    assert "\n" not in str(caught.value)
    assert rows(engine, "SELECT * FROM ml.chunk") == []


@pytest.mark.parametrize("y", [None, [], [1.0], [[0]], [3], [-1]])
def test_a_test_set_that_differs_from_the_manifest_is_named(toys: Bundle, y: list[Any] | None) -> None:
    arrays = {"x": np.zeros((30, 4, 4, 1), np.uint8)} | ({} if y is None else {"y": np.array(y * 30)})
    content = io.BytesIO()
    np.savez(content, **arrays)
    forge(toys.path, "test_set.npz", content.getvalue())
    with pytest.raises(BundleError, match=r"test_set\.npz .*publish the bundle again"):
        list(cut_test_set(open_bundle(toys.path)))


def test_41_a_big_endian_fortran_file_is_normalised(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_texts(models)
    x = np.asfortranarray(np.arange(16, dtype=">i4").reshape(2, 8))
    np.save(tmp_path / "mine.npy", x)
    load(engine, models, "reviews", tmp_path / "mine.npy")
    payloads = rows(engine, "SELECT payload FROM ml.input ORDER BY sample_no")
    assert [decode(payload).tolist() for (payload,) in payloads] == x.tolist()


def test_46_load_and_schema_refuse_an_input_over_64_mib(engine: sa.Engine) -> None:
    x = np.zeros((1, MAX_PAYLOAD_BYTES), np.uint8)  # too large together with its header
    chunks = cut(x, None, classes=None, dataset="big", prep_sha256="0" * 64, source="a test")
    with pytest.raises(CodecError, match=r"an array of 671089\d\d bytes is too large"):
        load_chunks(engine, "big", chunks, None)
    assert rows(engine, "SELECT * FROM ml.chunk") == []
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match="payload_size"):
        connection.execute(
            sa.text(
                "WITH c AS (INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, source)"
                " VALUES ('big', decode(repeat('00', 32), 'hex'), 0, 1, 'uint8', '{1}', 'x') RETURNING chunk_id)"
                " INSERT INTO ml.input (chunk_id, sample_no, payload) SELECT chunk_id, 0,"
                " '\\x934e554d50590100'::bytea || decode(repeat('00', :n), 'hex') FROM c"
            ),
            {"n": MAX_PAYLOAD_BYTES},
        )


def test_a_failed_load_stores_whole_chunks_and_can_continue(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    x = np.random.default_rng(0).integers(0, 256, (9_500, 3), np.uint8)
    chunks = list(cut(x, None, classes=None, dataset="toys", prep_sha256="0" * 64, source="a test"))

    def broken() -> Iterator[Chunk]:
        yield from chunks[:5]
        raise SourceError("the sixth part cannot be read")

    with pytest.raises(SourceError, match="sixth"):
        load_chunks(engine, "mine", broken(), None)
    assert rows(engine, "SELECT count(*), sum(n_inputs) FROM ml.chunk") == [(5, 5_000)]
    assert rows(engine, "SELECT * FROM ml.integrity") == []
    assert len(load_chunks(engine, "mine", iter(chunks), len(x))) == 10
    assert "4500 inputs loaded, 5000 were there already" in caplog.text
    stored = rows(engine, "SELECT payload FROM ml.input JOIN ml.chunk USING (chunk_id) ORDER BY first_row, sample_no")
    assert np.array_equal(np.stack([decode(payload) for (payload,) in stored]), x)


def test_51_broken_images_of_a_folder_are_named_and_skipped(
    engine: sa.Engine, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_images(models)
    for number, label in enumerate(["bee", "cat", "cat"]):
        write_image(tmp_path / f"photos/{label}/{number}.png", number)
    (tmp_path / "photos/bee/broken.jpg").write_bytes(b"nothing")
    load(engine, models, "pictures", tmp_path / "photos")
    assert "broken.jpg is not a readable image" in caplog.text
    found = rows(engine, "SELECT label, payload FROM ml.inputs JOIN ml.input USING (input_id) ORDER BY 1, 2")
    assert [(label, int(decode(payload)[0, 0, 0])) for label, payload in found] == [("bee", 0), ("cat", 1), ("cat", 2)]


def test_a_folder_without_a_readable_image_is_refused(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_images(models)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.jpg").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="none of 1 images could be read"):
        load(engine, models, "pictures", tmp_path / "photos")
    with pytest.raises(SourceError, match=r"broken\.jpg is not a readable image"):
        load(engine, models, "pictures", tmp_path / "photos/broken.jpg")


def test_texts_of_a_csv_use_the_models_vocabulary(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_texts(models)
    (tmp_path / "mine.csv").write_text("review,stars\nA good film!,bee\nbad BAD,ant\n")
    load(engine, models, "reviews", tmp_path / "mine.csv", TextColumns("review", "stars"))
    found = rows(
        engine, "SELECT label, payload FROM ml.inputs JOIN ml.input USING (input_id) ORDER BY ml.input.sample_no"
    )
    assert [(label, decode(payload).tolist()) for label, payload in found] == [
        ("bee", [0, 0, 0, 0, 1, 2, 4, 6]),
        ("ant", [0, 0, 0, 0, 0, 1, 5, 5]),
    ]


def test_the_words_of_a_vocabulary_are_in_the_database(engine: sa.Engine, models: Path) -> None:
    publish_texts(models)
    worker_for(engine, models).run(until_empty=True)
    assert rows(engine, "SELECT words[5] FROM ml.vocabulary") == [("good",)]


def test_a_dataset_without_a_model_is_refused(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match="dataset nothing has no model; datasets with a model: none; train one: pyml train"
    ):
        preparation(engine, models, "nothing")


@pytest.mark.parametrize(("name", "said"), [("none.npy", "does not exist"), ("notes.md", "has an unknown file type")])
def test_a_source_that_cannot_be_read_is_named(
    engine: sa.Engine, models: Path, toys: Bundle, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(SourceError, match=said):
        load(engine, models, "toys", tmp_path / name)


def test_a_missing_image_is_named(engine: sa.Engine, models: Path) -> None:
    publish_images(models)
    with pytest.raises(PypredictError, match=r"^cat\.jpg does not exist"):
        predict_items(worker_for(engine, models), "pictures", ["cat.jpg"], 5)


def test_texts_for_a_model_of_images_are_refused(engine: sa.Engine, models: Path, tmp_path: Path) -> None:
    publish_images(models)
    (tmp_path / "mine.csv").write_text("text\nhello\n")
    with pytest.raises(SourceError, match=r"takes no texts: its model needs uint8 of shape \(4, 6, 3\)"):
        load(engine, models, "pictures", tmp_path / "mine.csv")
