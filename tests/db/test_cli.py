"""The command line: what it prints is what is stored."""

import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from bundles import fake_predict, publish_bundle

from pypredict import cli
from pypredict.intake import load_chunks
from pypredict.predictor import Models
from pypredict.registry import list_models
from pypredict.report import answers_table, models_table, show
from pypredict.single import Answer
from pypredict.worker import Worker

NAMES = ("[/spoiler]", "[cat]", ":cat:")  # rich would raise, print nothing, and print a picture


def test_what_is_printed_is_what_is_stored(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = publish_bundle(tmp_path, classes=NAMES)
    Worker(engine, tmp_path, Models(tmp_path, lambda _: fake_predict), "tester").run(until_empty=True)
    console = cli._console()
    with engine.begin() as connection:
        show(connection, console)
        console.print(models_table(list_models(connection)))
    printed = capsys.readouterr().out
    assert [printed.count(name) for name in NAMES] == [2, 2, 2], printed  # a row and a column of the confusion matrix
    for name in NAMES:
        console.print(answers_table([Answer(f"a film {name}", name, 0.5, None, bundle.manifest.bundle_id)]))
        assert capsys.readouterr().out.count(name) == 2


def test_the_progress_of_a_file_with_brackets_in_its_name_is_shown(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert load_chunks(engine, "photos[/old].npy", iter([]), None) == []
