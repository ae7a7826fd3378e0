"""The Ray cluster of `pyml train --engine ray` and `pypredict run --engine ray`.

Ray only starts, spreads and restarts processes. It is an extra: importing this module does not need it. A task or an
actor works in the directory of the command that sent it, so each machine needs the same files at the same paths.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bundle import BundleError
from bundle.messages import one_line

LOCAL = "127.0.0.1"


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Join the Ray cluster at this address (host:port). None: start one on this machine, for the block.

    Raises BundleError if Ray is not installed, or if no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise BundleError(
            "--engine ray needs Ray: pip install --require-hashes --no-deps -r requirements-ray.txt"
        ) from error
    try:
        if address is None:
            ray.init("local", include_dashboard=False, logging_level="WARNING", _node_ip_address=LOCAL)
        else:
            ray.init(address, logging_level="WARNING")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"the Ray cluster {address or 'of this machine'} does not answer ({one_line(error)}); run ray start"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
