"""What the service needs beside the queue: connections, disk space, WAL, registered bundles; and what is short.

The database server cannot say how much of its disk is free. So the models volume and the temporary files are measured
on this machine, and the size of the database server is compared with PYPREDICT_DB_DISK, which the operator sets.
"""

import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from rich.filesize import decimal

from bundle.publish import list_bundles
from bundle.terminal import log_fields
from pypredict import registry

log = logging.getLogger(__name__)

TEMPORARY = Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - tempfile.gettempdir() fails when the disk is full

# For each kind of warning: what is used, what there is, and the share that is too much. max_wal_size is a soft limit: a
# busy server exceeds it for a short time.
LIMITS = {
    "connections": ("connections", "max_connections", 0.9),
    "models_disk": ("models_disk_used_bytes", "models_disk_bytes", 0.9),
    "temporary_disk": ("temporary_disk_used_bytes", "temporary_disk_bytes", 0.9),
    "database_disk": ("database_bytes", "database_disk_bytes", 0.9),
    "wal": ("wal_bytes", "max_wal_bytes", 2),
}
# NULL before the migration that makes the function; false for a login of another role.
IS_READABLE = sa.text("SELECT has_function_privilege(to_regprocedure('ml.server_state()')::oid, 'EXECUTE')")
SERVER_STATE = sa.text("SELECT * FROM ml.server_state()")


@dataclass(frozen=True)
class Resources:
    """What is used and what there is; each field's metadata has its meaning and its unit. None: it cannot be seen."""

    connections: int | None = field(metadata={"meaning": "Connections to the database server"})
    max_connections: int | None = field(metadata={"meaning": "Connections that the database server allows"})
    wal_bytes: int | None = field(metadata={"meaning": "WAL that the server holds", "unit": "B"})
    max_wal_bytes: int | None = field(metadata={"meaning": "WAL that the server is meant to hold", "unit": "B"})
    slot_wal_bytes: int | None = field(metadata={"meaning": "WAL that replication slots hold back", "unit": "B"})
    database_bytes: int | None = field(metadata={"meaning": "Size of the whole server, with WAL", "unit": "B"})
    database_disk_bytes: int | None = field(
        metadata={"meaning": "Disk space of the server, by PYPREDICT_DB_DISK", "unit": "B"}
    )
    models_disk_bytes: int | None = field(metadata={"meaning": "Disk of the models volume", "unit": "B"})
    models_disk_used_bytes: int | None = field(
        metadata={"meaning": "Used on the disk of the models volume", "unit": "B"}
    )
    temporary_disk_bytes: int | None = field(metadata={"meaning": "Disk of temporary files", "unit": "B"})
    temporary_disk_used_bytes: int | None = field(
        metadata={"meaning": "Used on the disk of temporary files", "unit": "B"}
    )
    unregistered_bundles: int | None = field(
        metadata={"meaning": "Published bundles that are refused, or not registered yet"}
    )


def read_resources(connection: sa.Connection, models: Path, db_disk: int | None) -> Resources:
    """Measure the server and the disks. models: the models volume; db_disk: PYPREDICT_DB_DISK in bytes."""
    server = dict.fromkeys(
        ("connections", "max_connections", "wal_bytes", "max_wal_bytes", "slot_wal_bytes", "database_bytes")
    )
    if connection.execute(IS_READABLE).scalar():
        server.update(connection.execute(SERVER_STATE).mappings().one())
    models_disk, temporary_disk = _disk(models), _disk(TEMPORARY)
    return Resources(
        **server,
        database_disk_bytes=db_disk,
        models_disk_bytes=models_disk[0],
        models_disk_used_bytes=models_disk[1],
        temporary_disk_bytes=temporary_disk[0],
        temporary_disk_used_bytes=temporary_disk[1],
        unregistered_bundles=_count_unregistered(connection, models),
    )


def find_warnings(now: Resources) -> dict[str, str]:
    """Give a sentence for each kind of LIMITS that is nearly used up: how much is used, and what to do."""
    advice = {
        "connections": "connections to the database server are in use: end idle sessions (see pg_stat_activity), or "
        "raise max_connections",
        "models_disk": "of the disk of the models volume are used: remove what you do not need from it, or make it "
        "larger",
        "temporary_disk": f"of the disk of {TEMPORARY} are used: remove old files, or make it larger",
        "database_disk": "of PYPREDICT_DB_DISK are used by the database server: delete old inputs (docs/retention.md), "
        "or give it a larger disk",
        "wal": "of WAL are held by the database server: " + _wal_advice(now),
    }
    found = {}
    for kind, (used_name, limit_name, share) in LIMITS.items():
        used, limit = getattr(now, used_name), getattr(now, limit_name)
        if _reaches(used, limit, share):
            show = str if kind == "connections" else decimal
            found[kind] = f"{show(used)} of {show(limit)} {advice[kind]}"
    return found


class Warnings:
    """The warnings of one process: each is logged once when it begins, and once when it is over."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def tell(self, found: dict[str, str]) -> None:
        """Log what is new and what is over."""
        for kind in found.keys() - self._known.keys():
            log.warning("%s", found[kind], extra=log_fields(warning=kind))
        for kind in self._known.keys() - found.keys():
            log.info("over: the warning of the kind %s", kind, extra=log_fields(warning=kind))
        self._known = found


def _reaches(used: int | None, limit: int | None, share: float) -> bool:
    """Return whether too much is used. A limit of 0 is none: some file systems have no size."""
    return used is not None and limit is not None and 0 < share * limit <= used


def _wal_advice(now: Resources) -> str:
    if _reaches(now.slot_wal_bytes, now.max_wal_bytes, 1):
        return "start the reader of the replication slot that holds it back, or drop the slot (pg_replication_slots)"
    return "look for a failing archive_command (pg_stat_archiver), or raise max_wal_size"


def _disk(directory: Path) -> tuple[int | None, int | None]:
    """Return the bytes of a disk, and how many of them an ordinary user can no longer write."""
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return None, None
    return usage.total, usage.total - usage.free


def _count_unregistered(connection: sa.Connection, models: Path) -> int | None:
    bundles = models / "bundles"
    if not os.access(bundles if bundles.exists() else models, os.R_OK | os.X_OK):
        return None
    return len({path.name for path in list_bundles(models)} - registry.registered_bundles(connection))
