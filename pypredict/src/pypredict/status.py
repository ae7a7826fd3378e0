"""The state of the queue, for `pypredict status` and for Prometheus."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pypredict import PypredictError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# Open jobs (by a partial index), pairs that the worker has not planned yet, and jobs done within the last minute.
STATUS = sa.text("""
    WITH unplanned AS (SELECT chunk_id FROM ml.unplanned(0)),
         open AS (SELECT j.state, c.n_inputs, c.created_at FROM ml.job j JOIN ml.chunk c USING (chunk_id)
                  WHERE j.state <> 'done'
                  UNION ALL
                  SELECT 'pending', c.n_inputs, c.created_at FROM unplanned JOIN ml.chunk c USING (chunk_id)),
         unserved AS (SELECT c.n_inputs FROM ml.chunk c
                      WHERE NOT EXISTS (SELECT FROM ml.job j WHERE j.chunk_id = c.chunk_id)
                        AND NOT EXISTS (SELECT FROM unplanned u WHERE u.chunk_id = c.chunk_id)),
         done AS (SELECT c.n_inputs FROM ml.job j JOIN ml.chunk c USING (chunk_id)
                  WHERE j.state = 'done' AND j.done_at > now() - interval '1 minute')
    SELECT (SELECT count(*) FROM open) AS open_jobs,
           (SELECT count(*) FROM open WHERE state = 'running') AS running_jobs,
           (SELECT coalesce(sum(n_inputs), 0)::bigint FROM open) AS open_inputs,
           (SELECT coalesce(sum(n_inputs), 0)::bigint FROM unserved) AS unserved_inputs,
           (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::double precision FROM open) AS lag_seconds,
           (SELECT (coalesce(sum(n_inputs), 0) / 60.0)::double precision FROM done) AS inputs_per_second,
           (SELECT count(*) FROM ml.prediction_error) AS refused_inputs""")


@dataclass(frozen=True)
class Status:
    """The current state of the queue; each field's metadata has its meaning and its unit."""

    open_jobs: int = field(metadata={"meaning": "Jobs that are not done"})
    running_jobs: int = field(metadata={"meaning": "Jobs that a worker holds"})
    open_inputs: int = field(metadata={"meaning": "Inputs that wait for their prediction"})
    unserved_inputs: int = field(metadata={"meaning": "Inputs that wait for a model that takes them"})
    lag_seconds: float = field(metadata={"meaning": "Age of the oldest input that waits", "unit": "s"})
    inputs_per_second: float = field(
        metadata={"meaning": "Inputs predicted per second, over the last minute", "unit": "1/s"}
    )
    refused_inputs: int = field(metadata={"meaning": "Inputs that could not be predicted"})


def read_status(connection: sa.Connection) -> Status:
    """Count the queue."""
    return Status(**connection.execute(STATUS).mappings().one())


def status_lines(status: Status) -> Iterator[str]:
    """Yield a line for each number, with its unit and its meaning."""
    for one in fields(status):
        value = getattr(status, one.name)
        number = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
        yield f"{number:>14} {one.metadata.get('unit', ''):3}  {one.metadata['meaning']}"


class Collector:
    """Reads the status for each request of Prometheus."""

    def __init__(self, engine: sa.Engine, predicted: Callable[[], int]) -> None:
        self._engine = engine
        self._predicted = predicted

    def collect(self) -> "Iterator[Metric]":
        """Yield every number as a metric, and the count of inputs that this worker has predicted."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._engine.begin() as connection:
            status = read_status(connection)
        for one in fields(status):
            yield GaugeMetricFamily(f"pypredict_{one.name}", one.metadata["meaning"], value=getattr(status, one.name))
        yield CounterMetricFamily(
            "pypredict_predicted_inputs", "Inputs that this worker has predicted", value=self._predicted()
        )


def serve_metrics(port: int, address: str, engine: sa.Engine, predicted: Callable[[], int]) -> int:
    """Answer Prometheus on this port in a separate thread; return the port (0: use a free one).

    Raises PypredictError when the port or the address cannot be used.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(Collector(engine, predicted))
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise PypredictError(
            f"port {port} of {address} cannot be used for metrics ({error.strerror}); choose another --metrics-port "
            "or --metrics-address"
        ) from error
    return int(server.server_port)
