"""Make one password for each database role, once, in volumes that only the services of that role mount.

The service `secrets` (docker-compose.yml) runs this program at every `up`, as an ordinary user without capabilities. A
service of another user reads its file as a member of the file's group. Existing passwords stay, unless there is a file
/run/overrides/ROLE (secrets/ROLE on the host). No password is printed.

    /run/secrets/owner/password          the password, for POSTGRES_PASSWORD_FILE       group 999: db
    /run/secrets/owner/pgpass            libpq's password file, mode 0600               migrate
    /run/secrets/pypredict/pgpass        libpq's password file, mode 0600               pypredict, migrate
    /run/secrets/reader/pgpass           libpq's password file, mode 0600               migrate
    /run/secrets/reader/pg_service.conf  libpq's service file, which a group may read   group 5050: pgadmin
"""

import os
import secrets
import stat
import sys
from pathlib import Path

VOLUMES = Path("/run/secrets")
OVERRIDES = Path("/run/overrides")
LOGINS = {"owner": "ml_owner", "pypredict": "pypredict", "reader": "reader"}  # volume -> database role
DB_GID, PGADMIN_GID = 999, 5050
ADDRESS = "db:5432:ml"  # host:port:database of a pgpass line


class PasswordError(Exception):
    """A password cannot be read or used."""


def main() -> None:
    """Write the files of every volume; on an error print one sentence and exit with 1."""
    try:
        for volume, login in LOGINS.items():
            write_passwords(volume, login)
    except (PasswordError, OSError) as error:
        sys.exit(f"secrets: {error}")


def write_passwords(volume: str, login: str) -> None:
    """Write the password files of one role, unless they are up to date."""
    pgpass = VOLUMES / volume / "pgpass"
    kept = pgpass.read_text().rstrip("\n").rpartition(":")[2] if pgpass.exists() else None
    given = read_override(login)
    password = given or kept or secrets.token_urlsafe(24)
    if volume == "owner":
        write(VOLUMES / volume / "password", f"{password}\n", 0o440, DB_GID)
    if volume == "reader":
        write(VOLUMES / volume / "pg_service.conf", f"[ml]\npassword={password}\n", 0o440, PGADMIN_GID)
    write(pgpass, f"{ADDRESS}:{login}:{password}\n", 0o600)
    origin = f"from secrets/{login}" if given else "kept" if kept else "generated"
    print(f"secrets: password of {login}: {origin}")  # noqa: T201 - the service's output
    if volume == "owner" and given and kept not in (None, given):
        print(  # noqa: T201
            "secrets: ml_owner has a new password here; tell it to a database that exists already: "
            "`docker compose exec db psql -U ml_owner -d ml -c '\\password'`"
        )


def read_override(login: str) -> str | None:
    """Read the user's own password. Raises PasswordError when it is not one line that a pgpass file can hold."""
    path = OVERRIDES / login
    if not path.is_file():
        return None
    try:
        password = path.read_text(encoding="ascii").rstrip("\r\n")
    except PermissionError as error:
        raise PasswordError(
            f"secrets/{login} cannot be read by uid {os.getuid()}: make it readable (chmod 644) in a clone that only "
            "you can enter, or for this one user (setfacl -m u:10001:r)"
        ) from error
    except UnicodeDecodeError as error:
        raise PasswordError(f"secrets/{login} holds more than ASCII characters") from error
    if not password.isprintable() or not password or any(c in password for c in ": \\"):
        raise PasswordError(f"secrets/{login} must hold one line without blanks, colons and backslashes")
    return password


def write(path: Path, text: str, mode: int, gid: int = -1) -> None:
    """Write a whole file that only its owner and the group `gid` can read."""
    if path.exists() and path.read_text() == text and stat.S_IMODE(path.stat().st_mode) == mode:
        return
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chown(aside, -1, gid)
    aside.chmod(mode)
    aside.replace(path)


if __name__ == "__main__":
    main()
