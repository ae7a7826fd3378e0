"""The metrics of each epoch: written and read back; an invalid file is refused."""

import os
from pathlib import Path

import pytest

from pyml import PymlError
from pyml.evaluation.history import read_history, write_history

EPOCHS = [{"epoch": 1, "seconds": 0.5, "loss": 0.1 + 0.2}, {"epoch": 2, "seconds": 0.25, "loss": 1e-12}]


def test_a_history_is_read_back_exactly(tmp_path: Path) -> None:
    write_history(tmp_path, EPOCHS)
    assert read_history(tmp_path) == EPOCHS


@pytest.mark.parametrize("text", ["", "{}", '[{"epoch": "one"}]', "[[]]", '[{"loss": 0.5}]'])
def test_an_invalid_history_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(PymlError, match=r"history\.json is not a history: [^\n]*$"):
        read_history(tmp_path)


def test_a_missing_history_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"history\.json cannot be read \(No such file"):
        read_history(tmp_path)


def test_a_history_that_is_a_fifo_or_too_large_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "history.json")
    with pytest.raises(PymlError, match=r"history\.json cannot be read \(not a regular file\)"):
        read_history(tmp_path)
    (tmp_path / "history.json").unlink()
    (tmp_path / "history.json").touch()
    os.truncate(tmp_path / "history.json", 2**40)
    with pytest.raises(PymlError, match=r"history\.json cannot be read \(it is larger than 8388608 bytes\)"):
        read_history(tmp_path)
