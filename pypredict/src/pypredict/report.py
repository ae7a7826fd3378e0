"""Tables for the terminal: progress, accuracy in SQL and in the manifest, the confusion matrix; single inputs."""

import re
from collections.abc import Sequence

import sqlalchemy as sa
from rich import box
from rich.console import Console
from rich.table import Table

from pypredict import PypredictError
from pypredict.deletion import Unit
from pypredict.predict_items import Answer
from pypredict.registry import Model
from pypredict.unregistered import UnregisteredBundle

PROGRESS = sa.text("SELECT * FROM ml.progress")
ACCURACY = sa.text("SELECT * FROM ml.accuracy WHERE in_test_set ORDER BY model_id")
OTHER_ACCURACY = sa.text("SELECT * FROM ml.accuracy WHERE NOT in_test_set ORDER BY model_id, in_training")
CONFUSION = sa.text("SELECT label, predicted, n FROM ml.confusion WHERE model_id = :model_id AND in_test_set")
UNSERVED = sa.text("""
    SELECT c.dataset, sum(c.n_inputs) AS n FROM ml.chunk c
    WHERE NOT EXISTS (SELECT FROM ml.model m WHERE m.state = 'serving' AND m.dataset = c.dataset)
      AND NOT EXISTS (SELECT FROM ml.job j WHERE j.chunk_id = c.chunk_id)
    GROUP BY c.dataset ORDER BY c.dataset""")
PROMOTIONS = sa.text("""
    SELECT * FROM ml.promotions WHERE dataset = coalesce(:dataset, dataset) ORDER BY promotion_id DESC""")
CLASSES = sa.text("SELECT classes FROM ml.model WHERE model_id = :model_id")
ERRORS = sa.text("SELECT reason, count(*) AS n FROM ml.prediction_error GROUP BY reason ORDER BY reason")
INTEGRITY = sa.text("SELECT problem, detail FROM ml.integrity LIMIT 20")
UNSCORED = sa.text("""
    SELECT m.model_id, m.name FROM ml.model m
    WHERE m.state = 'serving'
      AND NOT EXISTS (SELECT FROM ml.accuracy a WHERE a.model_id = m.model_id AND a.in_test_set)""")
INPUT = sa.text("""
    SELECT i.name, i.label, i.dataset, p.predicted, p.score, ml.show(i.input_id) AS shown
    FROM ml.inputs i LEFT JOIN ml.latest_predictions p USING (input_id) WHERE i.input_id = :input_id""")

NUMBER = re.compile(r"[\d.,]+(e-?\d+)?|·")
MIN_NAME_WIDTH, CELL_GAP = 8, 2  # characters, in a confusion matrix
MAX_MISTAKES = 20
MAX_SOURCES = 20  # rows in a table of deletions


def check(connection: sa.Connection) -> list[str]:
    """Compare accuracy in SQL and in the manifests to the last digit, and read ml.integrity; a sentence per problem."""
    problems = [
        f"model {row.model_id} ({row.name}): SQL counts {row.n_correct}/{row.n} = {row.accuracy!r}, "
        f"the manifest says {row.manifest_accuracy!r}"
        for row in connection.execute(ACCURACY)
        if not row.agrees
    ]
    problems += [
        f"model {row.model_id} ({row.name}) has no prediction on its test set yet"
        for row in connection.execute(UNSCORED)
    ]
    problems += [f"{row.problem}: {row.detail}" for row in connection.execute(INTEGRITY)]
    return problems


def show(connection: sa.Connection, console: Console) -> None:
    """Print progress, accuracy, the confusion matrix of each serving model, and the refused inputs."""
    progress = [row for row in connection.execute(PROGRESS) if row.state == "serving" or row.jobs]
    console.print(
        _table(
            "Progress",
            [(r.model_id, r.name, r.dataset, r.state, r.inputs_done, r.inputs - r.inputs_done) for r in progress],
            ("model", "experiment", "dataset", "state", "done", "waiting"),
        )
    )
    for row in connection.execute(UNSERVED):
        console.print(f"{row.n} inputs of {row.dataset} wait for a model: none serves this dataset")
        console.print()
    accuracy = list(connection.execute(ACCURACY))
    console.print(
        _table(
            "Accuracy on the test set",
            [
                (r.model_id, r.name, r.n, repr(r.accuracy), repr(r.manifest_accuracy), "=" if r.agrees else "DIFFERS")
                for r in accuracy
            ],
            ("model", "experiment", "inputs", "in SQL", "in the manifest", ""),
        )
    )
    others = [
        (r.model_id, r.name, "yes" if r.in_training else "no", r.n, f"{r.accuracy:.4f}")
        for r in connection.execute(OTHER_ACCURACY)
    ]
    if others:
        columns = ("model", "experiment", "in training", "inputs", "accuracy")
        console.print(_table("Accuracy on other inputs with labels", others, columns))
    serving = {row.model_id for row in progress if row.state == "serving"}
    for row in accuracy:
        if row.model_id in serving:
            console.print(_confusion(connection, row.model_id, row.name, console.width))
    errors = [(row.reason, row.n) for row in connection.execute(ERRORS)]
    if errors:
        console.print(_table("Inputs that could not be predicted", errors, ("reason", "inputs")))


def read_tables(connection: sa.Connection) -> dict[str, list[dict[str, object]]]:
    """Read what `show` prints, as rows of the views: progress, unserved, accuracy, confusion, errors."""
    confusion = sa.text("SELECT * FROM ml.confusion WHERE in_test_set ORDER BY model_id, label, predicted")
    accuracy = sa.text("SELECT * FROM ml.accuracy")
    queries = {"progress": PROGRESS, "unserved": UNSERVED, "accuracy": accuracy, "confusion": confusion}
    return {
        name: [dict(row) for row in connection.execute(query).mappings()]
        for name, query in (queries | {"errors": ERRORS}).items()
    }


def print_inputs(connection: sa.Connection, console: Console, input_ids: Sequence[int]) -> None:
    """Print inputs with label and prediction, as ml.show draws them. Raises PypredictError if some do not exist."""
    missing = []
    for input_id in input_ids:
        row = connection.execute(INPUT, {"input_id": input_id}).one_or_none()
        if row is None:
            missing.append(str(input_id))
            continue
        label = "no label" if row.label is None else f"label {row.label}"
        predicted = "not predicted yet" if row.predicted is None else f"predicted {row.predicted} ({row.score:.4f})"
        title = f"input {input_id} of {row.dataset}: {row.name}"
        console.print(title, f"{label}, {predicted}", *row.shown.split("\n"), sep="\n", highlight=False)
    if missing:
        raise PypredictError(f"there is no input {', '.join(missing)}; the view ml.inputs lists all inputs")


def models_table(models: Sequence[Model]) -> Table:
    """Make a table of the registered models."""
    rows = [(m.model_id, m.dataset, m.state, f"{m.accuracy:.4f}", m.bundle_id) for m in models]
    return _table("Models", rows, ("model", "dataset", "state", "test accuracy", "bundle"))


def history_table(connection: sa.Connection, dataset: str | None) -> Table:
    """Make a table of the changes of serving models, the newest first."""
    rows = [
        (f"{row.at:%Y-%m-%d %H:%M}", row.dataset, row.action, row.from_bundle or "-", row.to_bundle or "-", row.why)
        for row in connection.execute(PROMOTIONS, {"dataset": dataset})
    ]
    return _table("Promotions", rows, ("at", "dataset", "action", "from", "to", "why"))


def units_table(units: Sequence[Unit]) -> Table:
    """Make a table of what a deletion takes, one row for each source or model, the largest first."""
    groups: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        groups.setdefault((unit.dataset, unit.name), []).append(unit)
    ordered = sorted(groups.items(), key=lambda group: -sum(unit.bytes for unit in group[1]))
    shown = [(*names, *_sums(members)) for names, members in ordered[:MAX_SOURCES]]
    rest = [unit for _, members in ordered[MAX_SOURCES:] for unit in members]
    if rest:
        shown.append(("", f"{len(ordered) - MAX_SOURCES} more", *_sums(rest)))
    return _table("Deletion", shown, ("dataset", "source or model", "chunks", "inputs", "predictions", "bytes"))


def _sums(units: Sequence[Unit]) -> tuple[str, ...]:
    sums = len(units), sum(u.inputs for u in units), sum(u.outcomes for u in units), sum(u.bytes for u in units)
    return tuple(f"{n:,}" for n in sums)


def unregistered_table(bundles: Sequence[UnregisteredBundle]) -> Table:
    """Make a table of bundles that no model names."""
    rows = [(b.bundle_id, f"{b.published_at:%Y-%m-%d %H:%M}", f"{b.bytes:,}") for b in bundles]
    return _table("Deletion", rows, ("bundle", "published (UTC)", "bytes"))


def answers_table(answers: Sequence[Answer]) -> Table:
    """Make a table of single inputs and their predictions."""
    rows = [(a.item, a.predicted or a.reason, "" if a.score is None else f"{a.score:.4f}", a.model) for a in answers]
    return _table("Predictions", rows, ("input", "class", "confidence", "model"))


def _confusion(connection: sa.Connection, model_id: int, name: str, width: int) -> Table:
    """Make a table of the confusion matrix, or of the most frequent mistakes if the matrix is too wide."""
    classes = connection.execute(CLASSES, {"model_id": model_id}).scalar_one()
    counts = {(row.label, row.predicted): row.n for row in connection.execute(CONFUSION, {"model_id": model_id})}
    digits = max((len(str(n)) for n in counts.values()), default=1)
    if MIN_NAME_WIDTH + (digits + CELL_GAP) * len(classes) <= width:
        matrix = []
        for label in classes:
            cells = [counts.get((label, predicted), "·") for predicted in classes]
            matrix.append((label, *cells))
        return _table(f"Confusion matrix of model {model_id} ({name}): rows are labels", matrix, ("", *classes))
    mistakes = [(n, label, predicted) for (label, predicted), n in counts.items() if label != predicted]
    rows = [(label, predicted, n) for n, label, predicted in sorted(mistakes, reverse=True)[:MAX_MISTAKES]]
    title = f"Most frequent mistakes of model {model_id} ({name}); ml.confusion holds all"
    return _table(title, rows, ("label", "predicted", "inputs"))


def _table(title: str, rows: Sequence[tuple[object, ...]], columns: Sequence[str]) -> Table:
    """Make a table of the rows. If it is too wide, words are folded and numbers stay on one line."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        texts = [str(row[number]) for row in rows]
        numeric = bool(texts) and all(NUMBER.fullmatch(text) for text in texts)
        width = max(map(len, texts)) if numeric else None
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*map(str, row))
    return table
