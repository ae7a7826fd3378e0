"""The numbers of `pypredict status` for Prometheus: of `pypredict metrics`, or of a worker (`run --metrics-port`)."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pypredict import PypredictError
from pypredict.database import OUTAGE, reason
from pypredict.resources import LIMITS, Resources, find_warnings, read_resources
from pypredict.status import Status, read_status

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)


class Collector:
    """Reads the status for each request of Prometheus."""

    def __init__(
        self, engine: sa.Engine, models: Path, db_disk: int | None, predicted: Callable[[], int] | None = None
    ) -> None:
        """predicted: gives how many inputs this worker has predicted."""
        self._engine = engine
        self._models = models
        self._db_disk = db_disk
        self._predicted = predicted

    def collect(self) -> "Iterator[Metric]":
        """Yield each number that can be seen as a metric; while the database does not answer, only that."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        parts: list[Status | Resources] = []
        try:
            with self._engine.begin() as connection:
                parts = [read_status(connection), read_resources(connection, self._models, self._db_disk)]
        except OUTAGE as error:
            log.warning("no metrics: the database does not answer (%s)", reason(error))
        yield GaugeMetricFamily("pypredict_database_up", "1: the database answers", value=bool(parts))
        for part in parts:
            for one in fields(part):
                value = getattr(part, one.name)
                if value is not None:
                    yield GaugeMetricFamily(f"pypredict_{one.name}", one.metadata["meaning"], value=value)
            if isinstance(part, Resources):
                warning = GaugeMetricFamily("pypredict_warning", "1: this is nearly used up", labels=["kind"])
                found = find_warnings(part)
                for kind in LIMITS:
                    warning.add_metric([kind], kind in found)
                yield warning
        if self._predicted is not None:
            meaning = "Inputs that this worker has predicted"
            yield CounterMetricFamily("pypredict_predicted_inputs", meaning, value=self._predicted())


def serve_metrics(port: int, address: str, collector: Collector) -> int:
    """Answer Prometheus on this port in a separate thread; return the port (0: use a free one).

    Raises PypredictError when the port or the address cannot be used.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise PypredictError(
            f"port {port} of {address} cannot be used for metrics ({error.strerror}); choose another port or address"
        ) from error
    return int(server.server_port)
