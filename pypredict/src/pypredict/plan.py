"""Plan jobs: add the missing (model, chunk) pairs, at a cost that does not grow with the tables.

A full plan looks at all chunks: the first time, after a change of the serving models, and every WHOLE_SECONDS. The
plans in between look only at the newest chunks. A chunk gets its number before its commit, so a lower number can appear
after a higher one. SLACK covers short delays, and the next full plan covers long ones.
"""

import math
import time

import sqlalchemy as sa

from pypredict import jobs

SLACK = 100  # chunk numbers
WHOLE_SECONDS = 60  # between two full plans; longer when one full plan takes more than 1 % of this time


class Planner:
    """The planning state of one worker. After a lost transaction, make a new one."""

    def __init__(self) -> None:
        self._newest = 0
        self._serving: list[int] | None = None
        self._next_whole = -math.inf

    def plan(self, connection: sa.Connection) -> int:
        """Add the missing jobs; return their number."""
        began = time.monotonic()
        newest, serving = jobs.read_planning_state(connection)
        whole = serving != self._serving or began >= self._next_whole
        planned = jobs.plan_jobs(connection, 0 if whole else self._newest - SLACK)
        if whole:
            now = time.monotonic()
            self._next_whole = now + max(WHOLE_SECONDS, 100 * (now - began))
        self._newest, self._serving = newest, serving
        return planned
