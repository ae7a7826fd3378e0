"""Write folders of a volume to standard output as a tar stream, read such a stream into a volume, or list the folders.

    file_stream.py list | send | receive ROOT FOLDER...

`backup.py` runs this program on the host, and in a container that mounts the volume; there the program is an argument
of `python -c`, because the trainer's image does not hold it. So it needs the standard library only. The service goes on
meanwhile: a file that grows is sent up to its present size, and one that was removed is left out. Also left out are
files that are not complete yet (`.tmp-*`), links, devices, and records that have arrived at W&B.
"""

import os
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from shutil import copyfileobj

STAGED = ".tmp-"  # prefix of what bundle.publish and bundle.whole_file still write
ARRIVED = "arrived.json"  # in the record of a run that W&B has completely


def main() -> None:
    """Run one command; on an error print one sentence and exit with 1."""
    action, root, *folders = sys.argv[1:]
    try:
        if action == "receive":
            receive(Path(root))
        else:
            {"list": show, "send": send}[action](Path(root), folders)
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.exit(f"the files in {root} cannot be used ({error})")


def files_below(root: Path, folders: list[str]) -> Iterator[Path]:
    """Give the regular files below the folders of root, by name. Raises OSError for an unreadable directory."""
    for folder in folders:
        for place, directories, names in os.walk(root / folder, onerror=_check_missing):
            directories[:] = sorted(name for name in directories if not name.startswith(STAGED))
            if ARRIVED in names:
                directories.clear()
                continue
            paths = (Path(place, name) for name in sorted(names) if not name.startswith(STAGED))
            yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _check_missing(error: OSError) -> None:
    """Accept only a directory that is missing: it was removed meanwhile, or there is none yet."""
    if not isinstance(error, FileNotFoundError):
        raise error


def show(root: Path, folders: list[str]) -> None:
    """Print the names of the files, one a line."""
    for path in files_below(root, folders):
        sys.stdout.buffer.write(os.fsencode(path.relative_to(root)) + b"\n")  # a name may be of any bytes


def send(root: Path, folders: list[str]) -> None:
    """Write the files to standard output, in the order of the folders; one with several names is written under each."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", dereference=True) as archive:
        for path in files_below(root, folders):
            with suppress(FileNotFoundError), path.open("rb") as file:
                entry = archive.gettarinfo(arcname=path.relative_to(root).as_posix(), fileobj=file)
                archive.addfile(entry, file)


def receive(root: Path) -> None:
    """Write the files from standard input. Raises ValueError for a name that leads out of root, or is taken."""
    os.umask(0o022)  # other users read the models
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for entry in archive:
            name, content = PurePosixPath(entry.name), archive.extractfile(entry)
            if content is None or name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{entry.name!r} is no plain file below it")
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                copyfileobj(content, file)
                file.flush()
                os.fsync(file.fileno())


if __name__ == "__main__":
    main()
