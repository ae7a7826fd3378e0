"""How the queue stands: for `pypredict status`, and for Prometheus in its text format."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pypredict import PypredictError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# One scan over the open batches (a partial index) and one over those done in the last minute.
STATUS = sa.text("""
    WITH open AS (SELECT b.state, c.n_inputs, c.created_at FROM ml.batch b JOIN ml.chunk c USING (chunk_id)
                  WHERE b.state <> 'done'),
         done AS (SELECT c.n_inputs FROM ml.batch b JOIN ml.chunk c USING (chunk_id)
                  WHERE b.state = 'done' AND b.done_at > now() - interval '1 minute')
    SELECT (SELECT count(*) FROM open) AS open_batches,
           (SELECT count(*) FROM open WHERE state = 'running') AS running_batches,
           (SELECT coalesce(sum(n_inputs), 0) FROM open) AS open_inputs,
           (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM open) AS lag_seconds,
           (SELECT coalesce(sum(n_inputs), 0) / 60.0 FROM done) AS inputs_per_second,
           (SELECT count(*) FROM ml.prediction_error) AS refused_inputs""")

MEANING = {
    "open_batches": "Batches that are not done",
    "running_batches": "Batches that a worker holds",
    "open_inputs": "Inputs that wait for their prediction",
    "lag_seconds": "Age of the oldest input that waits",
    "inputs_per_second": "Inputs predicted per second, over the last minute",
    "refused_inputs": "Inputs that could not be predicted",
}


@dataclass(frozen=True)
class Status:
    """The queue now; MEANING says what each figure is."""

    open_batches: int
    running_batches: int
    open_inputs: int
    lag_seconds: float
    inputs_per_second: float
    refused_inputs: int


def read_status(connection: sa.Connection) -> Status:
    """Count the queue."""
    row = connection.execute(STATUS).one()
    return Status(
        open_batches=row.open_batches,
        running_batches=row.running_batches,
        open_inputs=int(row.open_inputs),
        lag_seconds=float(row.lag_seconds),
        inputs_per_second=float(row.inputs_per_second),
        refused_inputs=row.refused_inputs,
    )


class Collector:
    """Reads the status when Prometheus asks."""

    def __init__(self, engine: sa.Engine, predicted: Callable[[], int]) -> None:
        self._engine = engine
        self._predicted = predicted

    def collect(self) -> "Iterator[Metric]":
        """Yield every figure as a metric, and the inputs that this worker has predicted."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._engine.begin() as connection:
            status = read_status(connection)
        for name, value in asdict(status).items():
            yield GaugeMetricFamily(f"pypredict_{name}", MEANING[name], value=value)
        yield CounterMetricFamily(
            "pypredict_predicted_inputs", "Inputs that this worker has predicted", value=self._predicted()
        )


def serve_metrics(port: int, address: str, engine: sa.Engine, predicted: Callable[[], int]) -> int:
    """Answer Prometheus on this port from a thread of its own; return the port (0 takes a free one).

    Raises PypredictError when the port or the address cannot be had.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(Collector(engine, predicted))
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise PypredictError(
            f"port {port} of {address} cannot be had for the metrics ({error.strerror}); choose another --metrics-port "
            "or --metrics-address"
        ) from error
    return int(server.server_port)
