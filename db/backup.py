#!/usr/bin/env python3
"""Back up the database, the models and the records, restore them, and move the database to another PostgreSQL.

    backup.py backup DIR | restore DIR | upgrade | remove-old     the embedded server of `make run`
    backup.py --stack ...                                         the stack of containers

A backup is a directory:
    backup.json     format, time, major versions of the server and of pg_dump, revision of the schema
    database.dump   pg_dump, custom format: one snapshot of the database
    roles.sql       pg_dumpall: the roles, without their passwords; settings of the database itself, and rights on it
    models/         the bundles and the pointers
    records/        the W&B records that have not arrived
    SHA256SUMS      the sha256 of each other file, as `sha256sum --check` reads it

It is written beside its place under a name that starts with `.backup-`, and renamed at the end.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import embedded
import upgrade
from installation import (
    FILE_STREAM,
    MODELS,
    RECORDS,
    REPO,
    BackupError,
    Command,
    Installation,
    open_embedded,
    open_stack,
    pipe,
    run,
    show,
)
from postgres_programs import EmbeddedError

FORMAT = 1
ABOUT, SUMS, DUMP, ROLES = "backup.json", "SHA256SUMS", "database.dump", "roles.sql"
REVISION = "SELECT version_num FROM ml.alembic_version"
BUNDLES = "SELECT bundle_id FROM ml.model"

log = logging.getLogger("backup")


def back_up(source: Installation, target: Path) -> None:
    """Write a backup. The service may go on: models and pointers that it names are older than the copy of the volume.

    Raises BackupError when `target` exists, or when a bundle of the database is not on the volume; then nothing stays.
    """
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists already; give DIR a new name, a backup is never overwritten")
    with _staging(target) as staged:
        about = {
            "format": FORMAT,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "postgres": source.database.major(),
            "pg_dump": source.database.program_major("pg_dump"),
            "revision": source.database.sql(REVISION)[0][0],
        }
        with (staged / ROLES).open("wb") as file:
            file.write(run(source.database.dump_roles("--no-role-passwords")).encode())
            file.write(source.database.dump_settings().encode())
        with (staged / DUMP).open("wb") as file:
            run(source.database.dump(), stdout=file)
        named = [row[0] for row in source.database.sql(BUNDLES)]
        for folder, root, folders in (("models", source.models, MODELS), ("records", source.records, RECORDS)):
            (staged / folder).mkdir()
            pipe(source.stream("send", root, *folders), _local("receive", staged / folder))
        _check_bundles(staged, named)
        (staged / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        sums = hash_files(staged)
        (staged / SUMS).write_bytes(os.fsencode("".join(f"{digest}  {name}\n" for name, digest in sums.items())))
    size = sum(path.stat().st_size for path in target.rglob("*"))
    log.info("%s: %d files, %.1f MB, checked by SHA256SUMS", target, len(sums) + 1, size / 1e6)


def check_backup(source: Path) -> dict[str, object]:
    """Check all files of a backup and return the content of backup.json. Raises BackupError."""
    if not (source / SUMS).is_file() or not (source / ABOUT).is_file():
        raise BackupError(f"{source} is no backup of this project: it needs {SUMS} and {ABOUT}; give another DIR")
    listed = _read_sums(source / SUMS)
    found = hash_files(source, SUMS)
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            what = "is missing" if name not in found else "was added" if name not in listed else "has changed"
            raise BackupError(f"the backup {source} is damaged: {name} {what}; use another backup")
    about = json.loads((source / ABOUT).read_text())
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise BackupError(f"{source} has a format that this version does not know; use the version that made it")
    return about


def hash_files(directory: Path, *without: str) -> dict[str, str]:
    """Map the name of each file below a directory to its sha256. Raises BackupError for a link or a device."""
    sums = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or "\n" in name:
            raise BackupError(f"{directory} holds {name!r}, and a backup holds plain files only; remove it")
        if path.is_file() and name not in without:
            with path.open("rb") as file:
                sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def restore(source: Path, target: Installation, about: dict[str, object]) -> None:
    """Restore a checked backup into an empty installation, and repeat all predictions. Raises BackupError."""
    database = target.database
    majors = {
        "postgres": ("the server", database.major()),
        "pg_dump": ("pg_restore", database.program_major("pg_restore")),
    }
    for key, (program, major) in majors.items():
        if major < int(str(about[key])):
            raise BackupError(
                f"{source} needs PostgreSQL {about[key]} or newer, and {program} is {major}; use a newer one"
            )
    folders = (("models", target.models, MODELS), ("records", target.records, RECORDS))
    kept = [name for _, root, names in folders for name in run(target.stream("list", root, *names)).splitlines()]
    if kept or not target.database.is_empty():
        what = f"it holds {kept[0]}" if kept else "its database holds tables"
        raise BackupError(f"the installation is not empty ({what}); make it empty first: {target.emptied_by}")
    target.database.create_roles((source / ROLES).read_text())
    with (source / DUMP).open("rb") as file:
        run(target.database.restore_dump(), stdin=file)
    for folder, root, names in folders:
        pipe(_local("send", source / folder, *names), target.stream("receive", root))
    show(target.migrate)
    show(target.check)
    log.info("%s is restored", source)


def check_revision(source: Path, about: dict[str, object]) -> None:
    """Refuse a backup whose schema is newer than the migrations. Raises BackupError."""
    files = (REPO / "db/migrations/versions").glob("*.py")
    known = {name for file in files for name in re.findall(r'^revision = "(.*)"', file.read_text(), re.MULTILINE)}
    if about["revision"] not in known:
        raise BackupError(
            f"{source} has schema revision {about['revision']}, which this version does not know; use the version "
            "that made it"
        )


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Make a private directory beside `target`; at the end of the block, write it to the disk and rename it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".backup-", dir=target.parent))
    try:
        yield staged
        for path in (*staged.rglob("*"), staged):
            _fsync(path)
        staged.rename(target)
        _fsync(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # it was renamed: nothing to remove


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _local(action: str, root: Path, *folders: str) -> Command:
    return Command([sys.executable, FILE_STREAM, action, str(root), *folders])


def _check_bundles(staged: Path, named: list[str]) -> None:
    """Check that the files of each named bundle are there. Raises BackupError."""
    for bundle in named:
        directory = staged / "models/bundles" / bundle
        manifest = directory / "manifest.json"
        try:
            files = list(json.loads(manifest.read_text())["files"]) if manifest.is_file() else ["manifest.json"]
        except (ValueError, KeyError, TypeError) as error:
            raise BackupError(
                f"the database names the bundle {bundle}, and its manifest.json on the models volume is damaged "
                f"({error}); put the right one back and try again"
            ) from error
        missing = [name for name in files if not (directory / name).is_file()]
        if missing:
            raise BackupError(
                f"the database names the bundle {bundle}, and the models volume has no {bundle}/{missing[0]}; put it "
                "back and try again"
            )


def _read_sums(path: Path) -> dict[str, str]:
    """Read SHA256SUMS: name -> sha256. Raises BackupError."""
    lines = os.fsdecode(path.read_bytes()).split("\n")
    found = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines[:-1]]
    if lines[-1] or not found or None in found:
        raise BackupError(f"the backup {path.parent} is damaged: {SUMS} has changed; use another backup")
    return {match[2]: match[1] for match in found if match}


def main() -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stack", action="store_true", help="the stack of containers, not the embedded server")
    parser.add_argument("--state", type=Path, default=embedded.DEFAULT_STATE, metavar="DIR", help="as in embedded.py")
    parser.add_argument("--bin", type=Path, metavar="DIR", help="as in embedded.py; with upgrade: the old programs")
    parser.add_argument("action", choices=("backup", "restore", "upgrade", "remove-old"))
    parser.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="the backup, with backup and restore")
    options = parser.parse_args()
    if (options.action in ("backup", "restore")) != bool(options.directory):
        parser.error("backup and restore need DIR; upgrade and remove-old take none")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in embedded.FOREIGN:
        os.environ.pop(name, None)
    try:
        _act(options)
    except (BackupError, EmbeddedError) as error:
        log.error("%s: %s", options.action, error)
    except OSError as error:
        log.error("%s: %s; this user needs the right to use it", options.action, error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    else:
        return 0
    return 1


def _act(options: argparse.Namespace) -> None:
    if not options.directory:
        change = {"upgrade": upgrade.upgrade, "remove-old": upgrade.remove_old}[options.action]
        if options.stack:
            with embedded.lock(REPO / ".local/stack"):  # one upgrade at a time: a second server would destroy the data
                change(upgrade.StackUpgrade())
            return
        with embedded.lock(options.state.resolve()):
            change(upgrade.EmbeddedUpgrade(options.state.resolve(), options.bin))
        return
    make, directory = options.action == "restore", Path(os.path.abspath(options.directory))  # noqa: PTH100 - keeps links
    about = check_backup(directory) if make else {}
    if make:
        check_revision(directory, about)
    with _open(options, make=make) as installation:
        if make:
            restore(directory, installation, about)
        else:
            back_up(installation, directory)


@contextmanager
def _open(options: argparse.Namespace, *, make: bool) -> Iterator[Installation]:
    if options.stack:
        yield open_stack(make=make)
        return
    with open_embedded(options.state.resolve(), None if make else options.bin, make=make) as installation:
        yield installation


if __name__ == "__main__":
    sys.exit(main())
