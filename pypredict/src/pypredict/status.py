"""The state of the queue, and the lines of `pypredict status`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import sqlalchemy as sa

from pypredict.listen import count_daemons
from pypredict.resources import Resources

# Open jobs (by a partial index), pairs that the worker has not planned yet, and jobs done within the last minute.
STATUS = sa.text("""
    WITH unplanned AS (SELECT chunk_id FROM ml.unplanned(0)),
         open AS (SELECT j.state, j.failures, c.n_inputs, c.created_at
                  FROM ml.job j JOIN ml.chunk c USING (chunk_id) WHERE j.state <> 'done'
                  UNION ALL
                  SELECT 'pending', 0, c.n_inputs, c.created_at FROM unplanned JOIN ml.chunk c USING (chunk_id)),
         unserved AS (SELECT c.n_inputs FROM ml.chunk c
                      WHERE NOT EXISTS (SELECT FROM ml.job j WHERE j.chunk_id = c.chunk_id)
                        AND NOT EXISTS (SELECT FROM unplanned u WHERE u.chunk_id = c.chunk_id)),
         done AS (SELECT c.n_inputs FROM ml.job j JOIN ml.chunk c USING (chunk_id)
                  WHERE j.state = 'done' AND j.done_at > now() - interval '1 minute')
    SELECT (SELECT count(*) FROM open) AS open_jobs,
           (SELECT count(*) FROM open WHERE state = 'running') AS running_jobs,
           (SELECT count(*) FROM open WHERE failures > 0) AS failed_jobs,
           (SELECT coalesce(sum(n_inputs), 0)::bigint FROM open) AS open_inputs,
           (SELECT coalesce(sum(n_inputs), 0)::bigint FROM unserved) AS unserved_inputs,
           (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::double precision FROM open) AS lag_seconds,
           (SELECT (coalesce(sum(n_inputs), 0) / 60.0)::double precision FROM done) AS inputs_per_second,
           (SELECT count(*) FROM ml.prediction_error) AS refused_inputs""")


@dataclass(frozen=True)
class Status:
    """The current state of the queue and its workers; each field's metadata has its meaning and its unit."""

    open_jobs: int = field(metadata={"meaning": "Jobs that are not done"})
    running_jobs: int = field(metadata={"meaning": "Jobs that a worker holds"})
    failed_jobs: int = field(metadata={"meaning": "Jobs that failed and are not done yet"})
    open_inputs: int = field(metadata={"meaning": "Inputs that wait for their prediction"})
    unserved_inputs: int = field(metadata={"meaning": "Inputs that wait for a model that takes them"})
    lag_seconds: float = field(metadata={"meaning": "Age of the oldest input that waits", "unit": "s"})
    inputs_per_second: float = field(
        metadata={"meaning": "Inputs predicted per second, over the last minute", "unit": "1/s"}
    )
    refused_inputs: int = field(metadata={"meaning": "Inputs that could not be predicted"})
    workers: int = field(metadata={"meaning": "Workers that are connected (pypredict run, without end)"})


def read_status(connection: sa.Connection) -> Status:
    """Count the queue and its workers."""
    return Status(**connection.execute(STATUS).mappings().one(), workers=count_daemons(connection))


def status_lines(status: Status | Resources) -> Iterator[str]:
    """Yield a line for each number, with its unit and its meaning. What cannot be seen is left out."""
    for one in fields(status):
        value, unit = getattr(status, one.name), one.metadata.get("unit", "")
        if value is None:
            continue
        if unit == "B":
            value, unit = value / 1e6, "MB"
        number = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
        yield f"{number:>14} {unit:3}  {one.metadata['meaning']}"
