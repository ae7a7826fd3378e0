"""What a person sees in the terminal: progress, accuracy in SQL beside the manifest's, the confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from rich import box
from rich.console import Console
from rich.table import Table

from pypredict.registry import Model
from pypredict.single import Answer

PROGRESS = sa.text("SELECT * FROM ml.progress")
ACCURACY = sa.text("SELECT * FROM ml.accuracy WHERE held_out ORDER BY model_id")
CONFUSION = sa.text("SELECT label, predicted, n FROM ml.confusion WHERE model_id = :model_id AND held_out")
CLASSES = sa.text("SELECT classes FROM ml.model WHERE model_id = :model_id")
ERRORS = sa.text("SELECT reason, count(*) AS n FROM ml.prediction_error GROUP BY reason ORDER BY reason")
INTEGRITY = sa.text("SELECT problem, detail FROM ml.integrity LIMIT 20")
UNSCORED = sa.text("""
    SELECT m.model_id, m.name FROM ml.model m
    WHERE m.state = 'serving'
      AND NOT EXISTS (SELECT FROM ml.accuracy a WHERE a.model_id = m.model_id AND a.held_out)""")


@dataclass(frozen=True)
class Verdict:
    """Whether the database says what the manifests say, and nothing that must never be; each problem a sentence."""

    problems: list[str]


def check(connection: sa.Connection) -> Verdict:
    """Compare SQL accuracy with the manifests', to the last digit, and look for integrity problems."""
    problems = [
        f"model {row.model_id} ({row.name}): SQL counts {row.n_correct}/{row.n} = {row.accuracy!r}, "
        f"the manifest says {row.manifest_accuracy!r}"
        for row in connection.execute(ACCURACY)
        if not row.agrees
    ]
    problems += [
        f"model {row.model_id} ({row.name}) has no prediction on its held-out set yet"
        for row in connection.execute(UNSCORED)
    ]
    problems += [f"{row.problem}: {row.detail}" for row in connection.execute(INTEGRITY)]
    return Verdict(problems)


def show(connection: sa.Connection, console: Console) -> None:
    """Print progress, accuracy, confusion matrix (of each serving model) and refused inputs."""
    progress = list(connection.execute(PROGRESS))
    console.print(
        _table(
            "Progress",
            [(r.model_id, r.name, r.dataset, r.state, f"{r.inputs_done}/{r.inputs}") for r in progress],
            "model",
            "experiment",
            "data set",
            "state",
            "inputs predicted",
        )
    )
    accuracy = list(connection.execute(ACCURACY))
    console.print(
        _table(
            "Accuracy on the held-out test set",
            [
                (
                    r.model_id,
                    r.name,
                    r.n,
                    repr(r.accuracy),
                    repr(r.manifest_accuracy),
                    "equal" if r.agrees else "DIFFERS",
                )
                for r in accuracy
            ],
            "model",
            "experiment",
            "inputs",
            "counted in SQL",
            "in the manifest",
            "",
        )
    )
    serving = {row.model_id for row in progress if row.state == "serving"}
    for row in accuracy:
        if row.model_id in serving:
            console.print(_confusion(connection, row.model_id, row.name))
    errors = [(row.reason, row.n) for row in connection.execute(ERRORS)]
    if errors:
        console.print(_table("Inputs that could not be predicted", errors, "reason", "inputs"))


def models_table(models: Sequence[Model]) -> Table:
    """Lay out the registered models."""
    rows = [(m.model_id, m.dataset, m.name, m.state, repr(m.accuracy), m.bundle_id) for m in models]
    return _table("Models", rows, "model", "data set", "experiment", "state", "test accuracy", "bundle")


def answers_table(answers: Sequence[Answer]) -> Table:
    """Lay out what was asked and what the model says."""
    rows = [(a.item, a.predicted or a.reason, "" if a.score is None else f"{a.score:.4f}", a.model) for a in answers]
    return _table("Predictions", rows, "input", "class", "confidence", "model")


def _confusion(connection: sa.Connection, model_id: int, name: str) -> Table:
    classes = connection.execute(CLASSES, {"model_id": model_id}).scalar_one()
    counts = {(row.label, row.predicted): row.n for row in connection.execute(CONFUSION, {"model_id": model_id})}
    rows = [(label, *(counts.get((label, predicted), "·") for predicted in classes)) for label in classes]
    return _table(f"Confusion matrix of model {model_id} ({name}): rows are labels", rows, "", *classes)


def _table(title: str, rows: Sequence[tuple[object, ...]], *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        numeric = all(isinstance(row[number], int) or row[number] == "·" for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table
