"""Planning: which (model, chunk) pairs are missing, at a cost that does not grow with the tables.

Every chunk is looked at by the first plan, by one after another model came to serve, and now and then; in between only
the newest are. Chunk numbers are drawn before they are committed, so a lower one may appear after a higher one: that is
what the slack is for, and the whole look for the loader that took longer.
"""

import math
import time

import sqlalchemy as sa

from pypredict import store

SLACK = 100  # chunk numbers
WHOLE_SECONDS = 60  # between two looks at everything; longer where one takes more than a hundredth of that


class Planner:
    """What one worker has planned so far. Forget it (make a new one) when a transaction that planned was lost."""

    def __init__(self) -> None:
        self._newest = 0
        self._serving: list[int] | None = None
        self._next_whole = -math.inf

    def plan(self, connection: sa.Connection) -> int:
        """Add the missing jobs; return how many there were."""
        began = time.monotonic()
        newest, serving = store.read_horizon(connection)
        whole = serving != self._serving or began >= self._next_whole
        planned = store.plan_jobs(connection, 0 if whole else self._newest - SLACK)
        if whole:
            now = time.monotonic()
            self._next_whole = now + max(WHOLE_SECONDS, 100 * (now - began))
        self._newest, self._serving = newest, serving
        return planned
