"""Sessions of several logins, for the tests of the rules that the database keeps."""

from collections.abc import Iterator

import pytest
from conftest import Database
from support.sql_sessions import Session, open_sessions


@pytest.fixture
def sessions(db: Database) -> Iterator[dict[str, Session]]:
    with open_sessions(db) as opened:
        yield opened
