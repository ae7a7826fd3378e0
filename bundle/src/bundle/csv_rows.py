"""Write CSV files that every reader of CSV reads back."""

import csv
from collections.abc import Iterable, Sequence
from typing import IO


def write_rows(file: IO[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows that end with a line feed. A row with a carriage return in a text is quoted as a whole.

    csv.writer of Python 3.11 does not quote a carriage return, which csv.reader takes for the end of the row.
    """
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        has_return = any(isinstance(value, str) and "\r" in value for value in row)
        (quoted if has_return else plain).writerow(row)


def most_bytes(value: str) -> int:
    """Give the most bytes of a value in a row: between quotes, each quote twice, and a comma or the row's end."""
    return len(value.encode()) + value.count('"') + 3
