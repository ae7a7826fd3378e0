"""`pypredict ping`: store a line of text and a small array, read them back, compare them, and measure the time."""

import time
from dataclasses import dataclass

import numpy as np
import pyjokes
import sqlalchemy as sa

from pypredict import PypredictError
from pypredict.codec import decode, encode

STORE = sa.text("INSERT INTO ml.ping (line, payload) VALUES (:line, :payload) RETURNING ping_id")
READ = sa.text("SELECT line, payload FROM ml.ping WHERE ping_id = :ping_id")


@dataclass(frozen=True)
class RoundTrip:
    """The result: the server's version, the line, and the time from INSERT to the decoded array."""

    server_version: str
    line: str
    milliseconds: float


def ping(engine: sa.Engine) -> RoundTrip:
    """Store, commit, read back and compare. Raises PypredictError when the data have changed."""
    line = pyjokes.get_joke()
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    with engine.connect() as connection:
        version = connection.execute(sa.text("SHOW server_version")).scalar_one()
    started = time.perf_counter()
    with engine.begin() as connection:
        ping_id = connection.execute(STORE, {"line": line, "payload": encode(array)}).scalar_one()
    with engine.begin() as connection:
        row = connection.execute(READ, {"ping_id": ping_id}).one()
    back = decode(row.payload)
    elapsed = time.perf_counter() - started
    if row.line != line or back.dtype != array.dtype or not np.array_equal(back, array):
        raise PypredictError(f"the data of round trip {ping_id} have changed: {row.line!r}, {back!r}")
    return RoundTrip(version, line, elapsed * 1000)
