"""The vocabulary and the split of a bundle are read back, or refused in one sentence."""

import json
from pathlib import Path

import pytest
from support.bundles import forge, publish_bundle, publish_texts

from bundle import BundleError
from bundle.document import sha256_of_json
from bundle.inputs.preprocessing import RESERVED_WORDS
from bundle.split import MAX_LINE, SplitRow, read_split, write_split
from bundle.verify import Bundle, open_bundle
from bundle.vocabulary import read_vocabulary

HEADER = b"part,sample,label,source,sha256\n"
ROW = b"test,0,ant,%s," + b"0" * 64 + b"\n"


def with_vocabulary(models: Path, content: bytes, words: object = None) -> Bundle:
    """Publish a bundle with this content in vocabulary.json, and with the hash of these words in the manifest."""
    bundle = publish_texts(models)
    how = bundle.manifest.preprocessing.model_dump()
    if words is not None:
        how["vocabulary_sha256"] = sha256_of_json(words)
    forge(bundle.path, "vocabulary.json", content, preprocessing=how)
    return open_bundle(bundle.path)


def with_split(models: Path, content: bytes) -> Bundle:
    bundle = publish_bundle(models)
    forge(bundle.path, "split.csv", content)
    return open_bundle(bundle.path)


@pytest.mark.parametrize("known", [(), ("plot",)])
def test_a_vocabulary_is_read_back_with_words_without_a_number(tmp_path: Path, known: tuple[str, ...]) -> None:
    bundle = publish_texts(tmp_path, known=known)
    assert read_vocabulary(bundle) == [*RESERVED_WORDS, "good", "bad", "film", "'twas", *known]


def test_a_bundle_without_texts_has_no_words(tmp_path: Path) -> None:
    assert read_vocabulary(publish_bundle(tmp_path)) == []


WORDS = [*RESERVED_WORDS, "good", "bad", "film", "plot"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(WORDS).encode(), "is not the vocabulary that the manifest names"),
        (json.dumps(WORDS[:-1]).encode(), "is not the vocabulary that the manifest names"),
        (b"{}", "the document: input should be a valid array"),
        (b'[{"a": 1}, 2, 3]', "0: input should be a valid string"),
        (b"[" * 100_000 + b"]" * 100_000, "recursion limit exceeded"),
        (b'["\\ud800"]', "invalid JSON"),
        (b'["a\\u0000b"]', "a text holds a NUL character"),
        (b"\xff", "invalid JSON"),
    ],
    ids=["other_words", "fewer_words", "an_object", "objects", "nested", "surrogate", "nul", "not_utf_8"],
)
def test_another_vocabulary_is_refused_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(BundleError, match=r"reviews/vocabulary\.json is not") as error:
        read_vocabulary(with_vocabulary(tmp_path, content))
    assert said in str(error.value)


def test_60_a_vocabulary_that_changed_after_the_check_is_not_read(tmp_path: Path) -> None:
    bundle = publish_texts(tmp_path)
    (bundle.path / "vocabulary.json").write_text(json.dumps(WORDS))
    with pytest.raises(BundleError, match=r"vocabulary\.json changed while it was being read"):
        read_vocabulary(bundle)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n", "line 1: .*its columns are not part, sample, label, source, sha256"),
        (HEADER + ROW % b"a" + b"test,1\n", "line 3: .*not enough values"),
        (HEADER + ROW % b"a\0b", "line 2: .*a NUL character"),
        (HEADER + b"," * (MAX_LINE + 1), "line 1: .*a line has more than 65536 characters"),
        (HEADER + ROW.replace(b",0,", b"," + b"9" * 5_000 + b",") % b"a", "line 2: "),
        (HEADER + b"\xff\n", "line 1: .*'utf-8' codec"),
    ],
    ids=["columns", "values", "nul", "long_line", "long_number", "not_utf_8"],
)
def test_an_unreadable_split_is_refused_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(BundleError, match=rf"toy/split\.csv, {said}"):
        list(read_split(with_split(tmp_path, content)))


def test_split_with_a_carriage_return_in_a_label_or_source_is_read_back(tmp_path: Path) -> None:
    sha256 = "0" * 64
    rows = [
        SplitRow("train", 0, "a\r", "b", sha256),
        SplitRow("train", 1, "a", 'b\r\n"c",\r.png', sha256),
        SplitRow("test", 0, "a, b", "c", sha256),
    ]
    write_split(tmp_path / "split.csv", rows)
    content = (tmp_path / "split.csv").read_bytes()
    assert list(read_split(with_split(tmp_path, content))) == rows
    assert content.endswith(b'\ntest,0,"a, b",c,' + sha256.encode() + b"\n")  # without one, as csv.writer writes it
