"""Read folders of images and CSV files of texts."""

import os
import subprocess
from pathlib import Path

import pytest

from bundle.inputs.files import FilesError, list_images, read_texts, readable_name


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_sub_folders_are_labels_and_stray_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "cat/2.jpg", tmp_path / "cat/1.PNG", tmp_path / "dog/1.jpeg")
    touch(tmp_path / "stray.jpg", tmp_path / "README.md", tmp_path / "cat/notes.txt", tmp_path / "cat/.hidden.jpg")
    found = [(path.relative_to(tmp_path).as_posix(), label) for path, label in list_images(tmp_path)]
    assert found == [("cat/1.PNG", "cat"), ("cat/2.jpg", "cat"), ("dog/1.jpeg", "dog")]


def test_a_folder_without_sub_folders_is_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path / "b.jpg", tmp_path / "a.jpg")
    assert [(path.name, label) for path, label in list_images(tmp_path)] == [("a.jpg", None), ("b.jpg", None)]


@pytest.mark.parametrize("missing", [True, False])
def test_a_folder_without_an_image_is_named(tmp_path: Path, missing: bool) -> None:
    folder = tmp_path / ("nowhere" if missing else "")
    with pytest.raises(FilesError, match=str(folder)):
        list_images(folder)


def csv_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "texts.csv"
    path.write_bytes(content)
    return path


def test_52_a_byte_order_mark_quotes_and_empty_lines_are_read(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'\xef\xbb\xbftext,label\r\n"a ""good"" film,\nreally",pos\r\n\r\nbad,neg\r\n')
    assert [(row.text, row.label) for row in read_texts(path, "text", "label")] == [
        ('a "good" film,\nreally', "pos"),
        ("bad", "neg"),
    ]


def test_52_a_missing_column_is_named(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"review,label\nx,y\n")
    with pytest.raises(FilesError, match=r"no column 'text'; its header names review, label"):
        list(read_texts(path, "text", None))


def test_52_an_empty_file_has_no_column(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="its header names none"):
        list(read_texts(csv_file(tmp_path, b""), "text", None))


def test_52_a_line_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text,label\ngut,pos\nschön,pos\n".encode("latin-1"))
    with pytest.raises(FilesError, match=r"texts\.csv, line 3: not UTF-8"):
        list(read_texts(path, "text", "label"))


def test_a_file_in_utf_16_is_named_by_its_first_line(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text,label\ngood,pos\n".encode("utf-16"))
    with pytest.raises(FilesError, match=r"texts\.csv, line 1: not UTF-8; convert the file"):
        list(read_texts(path, "text", "label"))


@pytest.mark.parametrize("row", [b",pos\n", b"fine\n", b"fine,\n", b"fine, \t\n"])
def test_52_a_row_without_text_or_label_is_named(tmp_path: Path, row: bytes) -> None:
    path = csv_file(tmp_path, b"text,label\ngood,pos\n" + row)
    with pytest.raises(FilesError, match="line 3: the text or the label is empty or missing"):
        list(read_texts(path, "text", "label"))


def test_two_unbalanced_quotes_do_not_merge_the_rows_between(tmp_path: Path) -> None:
    rows = [b"film %d,pos\n" % number for number in range(50)]
    rows[10], rows[40] = b'"good film,pos\n', b'"great film,pos\n'
    path = csv_file(tmp_path, b"text,label\n" + b"".join(rows))
    with pytest.raises(FilesError, match=r"lines 12 to 42: .*; write each quote inside a quoted text twice") as raised:
        list(read_texts(path, "text", "label"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b'text,label\na,b\n"an open quote,pos\nb,c\n', "lines 3 to 4"),
        (b'text,label\n"a "good" film",pos\n', "line 2"),
        (b'"text","label"\n\n"a\nb",c\n\n"d,e\n', "lines 5 to 6"),
    ],
)
def test_quotes_that_do_not_match_are_named(tmp_path: Path, content: bytes, lines: str) -> None:
    with pytest.raises(FilesError, match=rf"texts\.csv, {lines}: the quotes do not match"):
        list(read_texts(csv_file(tmp_path, content), "text", "label"))


@pytest.mark.parametrize(("header", "column"), [(b"text,label,text", "text"), (b"label,text,label", "label")])
def test_column_that_appears_twice_is_refused(tmp_path: Path, header: bytes, column: str) -> None:
    path = csv_file(tmp_path, header + b"\na,b,c\n")
    with pytest.raises(FilesError, match=rf"has 2 columns {column!r}, one is needed; rename or remove the others"):
        list(read_texts(path, "text", "label"))


def test_another_column_may_appear_twice(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"text,,\na,b,c\n")
    assert [row.text for row in read_texts(path, "text", None)] == ["a"]


def test_command_that_converts_a_file_works_for_every_path(tmp_path: Path) -> None:
    path = tmp_path / "my $HOME's texts.csv"
    path.write_text('"text";"label"\n"a, b";"pos"\n')
    with pytest.raises(FilesError) as raised:
        list(read_texts(path, "text", "label"))
    command = str(raised.value).partition("convert it: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    (row,) = read_texts(tmp_path / "my $HOME's texts-commas.csv", "text", "label")
    assert (row.text, row.label) == ("a, b", "pos")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match=r"none\.csv cannot be read"):
        list(read_texts(tmp_path / "none.csv", "text", None))


def test_label_over_255_characters_is_refused_and_shortened(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"text,label\ngood," + b"x" * 255 + b"\nbad," + b"y" * 10_000_000 + b"\n")
    rows = read_texts(path, "text", "label")
    assert next(rows).label == "x" * 255
    with pytest.raises(FilesError, match=r"line 3: the label 'y.*' has 10000000 characters, at most 255") as raised:
        next(rows)
    assert len(str(raised.value)) < 500


def test_header_with_very_many_columns_is_shortened(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match=r"its header names x, x, x.* and 99990 more") as raised:
        list(read_texts(csv_file(tmp_path, b"x" + b",x" * 99_999), "text", None))
    assert len(str(raised.value)) < 500


def test_image_that_is_no_regular_file_is_listed_to_be_named(tmp_path: Path) -> None:
    touch(tmp_path / "cat/1.png")
    os.mkfifo(tmp_path / "cat/2.png")
    (tmp_path / "cat/3.png").mkdir()
    assert [path.name for path, _ in list_images(tmp_path)] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("caf\u00e9", "caf\u00e9"),
        ("caf\udce9", r"caf\xe9"),
        ("a\ude77", r"a\xed\xb9\xb7"),
        ("\ud800", r"\xed\xa0\x80"),
        ("\udce9\ude77", r"\xed\xb3\xa9\xed\xb9\xb7"),
    ],
)
def test_name_with_any_lone_surrogate_becomes_readable(name: str, readable: str) -> None:
    assert readable_name(name) == readable
