"""The functions of db/functions.sql: payloads decoded, drawn and read as words in SQL, as a reader sees them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import REPO, Database
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from support.bundles import publish_bundle, publish_texts
from support.workers import load, rows, scalar, worker_for

from bundle.verify import Bundle
from pypredict import migrate, registry
from pypredict.codec import DTYPES, encode

ODD = [0.0, -0.0, 1.0, -1.5, 0.1, np.pi, np.inf, -np.inf, np.nan]
ODD += [1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38, 3.4028235e38]
SEVEN = """\
............................
............................
............................
....####################....
....####################....
....####################....
.....................###....
....................###.....
...................###......
..................###.......
.................###........
................###.........
...............###..........
..............###...........
.............###............
.............###............
............###.............
............###.............
...........###..............
...........###..............
..........###...............
..........###...............
.........###................
.........###................
........###.................
........###.................
............................
............................"""


def seven() -> np.ndarray:
    """Draw a seven as MNIST does: (28, 28, 1) uint8, white on black."""
    pixels = np.array([[255 * (mark == "#") for mark in line] for line in SEVEN.splitlines()], np.uint8)
    return pixels[..., np.newaxis]


DRAWN_SEVEN = (
    "░" * 28,
    "░░░░" + "▓" * 20 + "░░░░",
    "░░░░" + "█" * 20 + "░░░░",
    "░" * 20 + "▓██▓░░░░",
)


@pytest.fixture
def reader(db: Database) -> Iterator[sa.Engine]:
    engine = db.engine("reader")
    yield engine
    engine.dispose()


def values(engine: sa.Engine, array: np.ndarray, n: int) -> list[float]:
    with engine.connect() as connection:
        found: list[float] = connection.execute(
            sa.text("SELECT ml.npy_values(:payload, :n)"), {"payload": encode(array), "n": n}
        ).scalar_one()
    return found


def drawing(engine: sa.Engine, array: np.ndarray) -> str | None:
    with engine.connect() as connection:
        drawn: str | None = connection.execute(
            sa.text("SELECT ml.npy_drawing(:payload)"), {"payload": encode(array)}
        ).scalar_one()
    return drawn


def test_odd_floats_are_decoded_to_the_last_bit(engine: sa.Engine) -> None:
    odd = np.array(ODD, np.float32)
    decoded = np.array(values(engine, odd, len(odd)))
    assert decoded.tobytes() == odd.astype(np.float64).tobytes()


def test_every_array_is_decoded_as_numpy_does(engine: sa.Engine) -> None:
    some = st.sampled_from(sorted(DTYPES)).flatmap(
        lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(max_dims=8, max_side=3))
    )

    @settings(max_examples=150, deadline=None)
    @given(array=some)
    def agrees(array: np.ndarray) -> None:
        query = sa.text("SELECT ml.npy_dtype(:p), ml.npy_shape(:p), ml.npy_values(:p, 10000)")
        with engine.connect() as connection:
            dtype, shape, numbers = connection.execute(query, {"p": encode(array)}).one()
        assert (dtype, tuple(shape)) == (array.dtype.name, array.shape)
        np.testing.assert_array_equal(np.array(numbers), array.ravel().astype(np.float64))

    agrees()


def test_truncated_and_changed_payloads_raise_no_error(engine: sa.Engine) -> None:
    whole = encode(np.arange(6, dtype=np.int32).reshape(2, 3))
    changed = [whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(70) for byte in (0, 0x28, 0x39, 0xFF)]
    query = sa.text("SELECT ml.npy_dtype(:p), ml.npy_shape(:p), ml.npy_values(:p, 9), ml.npy_drawing(:p)")
    with engine.connect() as connection:
        for payload in (*(whole[:at] for at in range(len(whole))), whole + b"\0"):
            assert set(connection.execute(query, {"p": payload}).one()) == {None}
        for payload in changed:
            connection.execute(query, {"p": payload}).one()


@pytest.mark.parametrize(("n", "shown"), [(-1, 0), (0, 0), (3, 3), (2**31 - 1, 10_000)])
def test_values_end_at_the_limit(engine: sa.Engine, n: int, shown: int) -> None:
    assert values(engine, np.arange(20_000, dtype=np.int32), n) == list(range(shown))


def test_a_seven_is_drawn(engine: sa.Engine) -> None:
    drawn = drawing(engine, seven())
    assert drawn is not None
    lines = drawn.split("\n")
    assert [len(line) for line in lines] == [28] * 14
    assert tuple(lines[:4]) == DRAWN_SEVEN
    assert lines[12].strip("░") == "███"


@pytest.mark.parametrize(
    ("shape", "lines", "columns"),
    [
        ((8, 8, 1), 20, 40),
        ((28, 28), 14, 28),
        ((100, 200, 3), 10, 40),
        ((3, 5000), 1, 40),
        ((5000, 3), 40, 39),
        ((2, 2, 3), 20, 40),
    ],
)
def test_a_drawing_has_at_most_40_columns_and_lines(
    engine: sa.Engine, shape: tuple[int, ...], lines: int, columns: int
) -> None:
    for dtype in DTYPES:
        array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        drawn = drawing(engine, array)
        assert drawn is not None
        assert [len(line) for line in drawn.split("\n")] == [columns] * lines


def test_pixels_that_are_no_numbers_are_question_marks(engine: sa.Engine) -> None:
    image = np.zeros((4, 40), np.float32)
    image[:, :10], image[:, 10:20], image[:, 20:30] = np.nan, np.inf, 3.4e38
    assert drawing(engine, image) == "\n".join(["?" * 20 + "█" * 10 + "░" * 10] * 2)


def test_an_image_of_one_colour_is_grey(engine: sa.Engine) -> None:
    assert drawing(engine, np.full((4, 40), 7, np.uint8)) == "\n".join(["▒" * 40] * 2)


@pytest.mark.parametrize("shape", [(9,), (1, 9), (9, 1), (3, 3, 2), (3, 3, 3, 3)])
def test_other_shapes_are_not_drawn(engine: sa.Engine, shape: tuple[int, ...]) -> None:
    assert drawing(engine, np.ones(shape, np.uint8)) is None


def store(engine: sa.Engine, bundle: Bundle, *arrays: np.ndarray) -> list[int]:
    load(engine, bundle, np.stack(arrays))
    return [number for (number,) in rows(engine, "SELECT input_id FROM ml.input ORDER BY input_id")]


def test_the_reader_sees_an_image_and_never_its_bytes(engine: sa.Engine, reader: sa.Engine, tmp_path: Path) -> None:
    (number,) = store(engine, publish_bundle(tmp_path, shape=(28, 28, 1)), seven())
    shown = scalar(reader, f"SELECT ml.show({number})")
    assert shown == drawing(engine, seven())
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        scalar(reader, f"SELECT ml.npy_values(payload, 9) FROM ml.input WHERE input_id = {number}")


def test_a_text_is_shown_by_its_words_without_padding(engine: sa.Engine, reader: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_texts(tmp_path)
    with engine.begin() as connection:
        registry.register_model(connection, bundle)
        words = ["<pad>", "<start>", "<unknown>", "<unused>", "good", "bad", "film", "'twas"]
        registry.add_vocabulary(connection, bundle.manifest.prep_sha256, words)
    known = np.array([0, 0, 1, 7, 2, 4, 6, 0], np.int32)
    forged = np.array([8, -1, 2**31 - 1, -(2**31), 0, 0, 0, 4], np.int32)
    first, second = store(engine, bundle, known, forged)
    assert scalar(reader, f"SELECT ml.show({first})") == "<start> 'twas <unknown> good film"
    assert scalar(reader, f"SELECT ml.show({second})") == "8 -1 2147483647 -2147483648 good"


def test_texts_with_a_large_vocabulary_are_shown_quickly(engine: sa.Engine, reader: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_texts(tmp_path)
    words = [f"word {number} of a large vocabulary" for number in range(50_000)]
    with engine.begin() as connection:
        registry.register_model(connection, bundle)
        registry.add_vocabulary(connection, bundle.manifest.prep_sha256, words)
    texts = np.random.default_rng(0).integers(1, 50_000, (40, 256)).astype(np.int32)
    store(engine, bundle, *texts)
    with reader.begin() as connection:
        connection.execute(sa.text("SET LOCAL statement_timeout = '10s'"))  # it takes 0.2 s; a minute, one by one
        shown = connection.execute(sa.text("SELECT ml.show(input_id) FROM ml.inputs ORDER BY input_id")).scalars().all()
    assert shown == [" ".join(words[number] for number in text) for text in texts]


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.array([0.1, -2.5, np.nan, np.inf], np.float32), "0.1 -2.5 NaN Infinity"),
        (np.array([-7, 2**31 - 1], np.int32), "-7 2147483647"),
        (np.full(401, 7, np.uint8), "7 " * 400 + "..."),
    ],
)
def test_other_arrays_are_shown_as_numbers(engine: sa.Engine, tmp_path: Path, array: np.ndarray, shown: str) -> None:
    bundle = publish_bundle(tmp_path, shape=array.shape, dtype=array.dtype.name)
    (number,) = store(engine, bundle, array)
    assert scalar(engine, f"SELECT ml.show({number})") == shown


def test_an_input_that_is_missing_or_garbage_is_a_sentence(engine: sa.Engine, owner: sa.Engine, tmp_path: Path) -> None:
    (number,) = store(engine, publish_bundle(tmp_path, shape=(28, 28, 1)), seven())
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.input SET payload = substring(payload from 1 for 300)"))
    assert scalar(engine, "SELECT ml.show(0)") == "there is no input 0"
    assert "holds no .npy array" in str(scalar(engine, f"SELECT ml.show({number})"))


def test_show_and_migrate_work_without_standard_strings(
    engine: sa.Engine, owner: sa.Engine, db: Database, tmp_path: Path
) -> None:
    (input_id,) = store(engine, publish_bundle(tmp_path), np.array([1, 2, 3, 4], np.uint8))
    with owner.begin() as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{db.name}" SET standard_conforming_strings = off'))
    owner.dispose()
    migrate.migrate(owner, REPO / "db", [])
    reader = db.engine("reader")
    assert scalar(reader, "SHOW standard_conforming_strings") == "off"
    assert scalar(reader, f"SELECT ml.show({input_id})") == "1 2 3 4"
    assert scalar(reader, "SELECT lower('LOW')") == "low"  # roles.sql takes away lo_creat and others
    reader.dispose()


def test_a_large_payload_is_read_in_part(engine: sa.Engine, reader: sa.Engine, tmp_path: Path) -> None:
    image = np.zeros((4096, 4096, 1), np.uint8)  # 16 MiB; a byte-by-byte read of the whole takes minutes
    image[2048:] = 255
    (number,) = store(engine, publish_bundle(tmp_path, n=1, shape=image.shape), image)
    with reader.begin() as connection:
        connection.execute(sa.text("SET LOCAL statement_timeout = '5s'"))
        shown = connection.execute(sa.text(f"SELECT ml.show({number})")).scalar_one()
    assert shown.split("\n") == ["░" * 40] * 10 + ["█" * 40] * 10


def test_a_login_without_rights_cannot_show_an_input(owner: sa.Engine) -> None:
    with owner.begin() as connection:
        connection.execute(sa.text("CREATE ROLE nobody_special"))
        allowed = connection.execute(
            sa.text("SELECT has_function_privilege('nobody_special', 'ml.show(bigint)', 'EXECUTE')")
        ).scalar_one()
        connection.rollback()
    assert allowed is False


def test_every_function_with_the_owners_rights_fixes_the_search_path(owner: sa.Engine) -> None:
    found = rows(
        owner,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'ml'::regnamespace AND prosecdef"
        " AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)",
    )
    assert found == []


def test_every_function_has_a_comment(owner: sa.Engine) -> None:
    bare = rows(
        owner,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'ml'::regnamespace AND obj_description(oid) IS NULL",
    )
    assert bare == []


def test_the_gallery_draws_50_mistakes_of_each_serving_model(
    engine: sa.Engine, reader: sa.Engine, tmp_path: Path
) -> None:
    publish_bundle(tmp_path, n=1000, shape=(28, 28, 1))
    worker_for(engine, tmp_path).run(until_empty=True)
    assert int(str(scalar(reader, "SELECT count(*) FROM ml.misclassified"))) > 100
    with reader.connect() as connection:
        shown = list(connection.execute(sa.text("SELECT * FROM ml.gallery")).mappings())
        worst = connection.execute(sa.text("SELECT input_id FROM ml.misclassified LIMIT 50")).scalars().all()
    assert [row["input_id"] for row in shown] == list(worst)
    assert list(shown[0])[:5] == ["name", "label", "predicted", "score", "input"]
    assert shown[0]["input"] == scalar(reader, f"SELECT ml.show({worst[0]})")


@pytest.mark.parametrize("path", sorted((REPO / "db/pgadmin/queries").glob("*.sql")), ids=lambda path: path.name)
def test_each_example_query_gives_the_reader_rows(
    engine: sa.Engine, reader: sa.Engine, tmp_path: Path, path: Path
) -> None:
    publish_bundle(tmp_path, n=100, shape=(28, 28, 1))
    worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(reader, path.read_text())
