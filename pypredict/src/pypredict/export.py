"""Export predictions and labels to a CSV or Parquet file, row by row, so that memory use stays constant."""

import os
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from psycopg2 import sql

from bundle.whole_file import write_whole
from pypredict import PypredictError
from pypredict.registry import check_dataset

ROWS = """
    SELECT o.input_id, {name} AS name, o.dataset, o.model_id, o.in_test_set, o.in_training, {label} AS label,
           {predicted} AS predicted, o.score, o.predicted_at, {source} AS source, o.chunk_id, o.sample_no
    FROM ml.outcome o
    WHERE o.dataset = coalesce({dataset}, o.dataset)
    ORDER BY o.model_id, o.input_id"""
FETCH_ROWS = 20_000
# The columns with texts of people. A dataset's name begins with a letter or a digit.
TEXTS = ("name", "label", "predicted", "source")
# A spreadsheet program takes a cell that begins so for a formula, unless it is a number. An apostrophe makes it text.
NO_FORMULA = r"""
    CASE WHEN o.{0} ~ E'^[=+@\\t\\r\\n-]' AND o.{0} !~ '^[-+]?[0-9]+([.][0-9]+)?$' THEN '''' || o.{0} ELSE o.{0} END"""


def export_csv(connection: sa.Connection, file: IO[bytes], dataset: str | None, *, raw: bool) -> None:
    """Write CSV with a header, using the server's COPY. raw: keep texts that are formulas for spreadsheet programs."""
    cursor: Any = connection.connection.cursor()  # psycopg2's own
    texts = {name: sql.SQL(("o.{0}" if raw else NO_FORMULA).format(name)) for name in TEXTS}
    query = sql.SQL("COPY (" + ROWS + ") TO STDOUT (FORMAT csv, HEADER)").format(dataset=sql.Literal(dataset), **texts)
    cursor.copy_expert(query.as_string(cursor), file)


def export_parquet(connection: sa.Connection, file: IO[bytes], dataset: str | None) -> None:
    """Write Parquet in row groups of 20,000 rows, from a server-side cursor; texts stay as they are.

    Raises PypredictError without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise PypredictError(
            "Parquet needs pyarrow: pip install --require-hashes -r pypredict/requirements-parquet.txt, or export CSV"
        ) from error
    text, number = pa.string(), pa.int64()
    schema = pa.schema(
        [
            ("input_id", number),
            ("name", text),
            ("dataset", text),
            ("model_id", number),
            ("in_test_set", pa.bool_()),
            ("in_training", pa.bool_()),
            ("label", text),
            ("predicted", text),
            ("score", pa.float32()),
            ("predicted_at", pa.timestamp("us", tz="UTC")),
            ("source", text),
            ("chunk_id", number),
            ("sample_no", pa.int32()),
        ]
    )
    result = connection.execution_options(stream_results=True, max_row_buffer=FETCH_ROWS).execute(
        sa.text(ROWS.format(dataset="CAST(:dataset AS text)", **{name: f"o.{name}" for name in TEXTS})),
        {"dataset": dataset},
    )
    with pq.ParquetWriter(file, schema) as writer:
        for rows in result.mappings().partitions(FETCH_ROWS):
            writer.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema))


def export(connection: sa.Connection, path: Path, dataset: str | None, *, raw: bool = False) -> None:
    """Write the file path (.csv or .parquet); after an error, an old file stays. Raises PypredictError.

    raw: see export_csv.
    """
    if dataset is not None:
        check_dataset(connection, dataset)
    if path.suffix not in (".csv", ".parquet"):
        ending = f"the ending {path.suffix}" if path.suffix else "no ending"
        raise PypredictError(f"{path} has {ending}; a file ending in .csv or .parquet is needed")
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        raise PypredictError(f"{path} is a directory; the name of a file is needed")
    try:
        with write_whole(path) as file:
            if path.suffix == ".csv":
                export_csv(connection, file, dataset, raw=raw)
            else:
                export_parquet(connection, file, dataset)
    except OSError as error:
        reason = error.strerror or error
        raise PypredictError(f"{path} cannot be written ({reason}); choose another place, or make room") from error
