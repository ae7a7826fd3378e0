#!/bin/sh
# Checks the volume pgdata before `db` starts, since `db` would start an empty database beside data that it does not find.
# Refuses a volume with a database in its root (the layout of earlier versions of this stack), a volume that a killed
# upgrade may still use, and a database of another major version than the image. `docker compose run --rm pgdata move`
# moves a database from the root into its folder.
set -eu
volume=${PGDATA%/*}

fail() {
    echo "pgdata: $*" >&2
    exit 1
}

version=$(cat "$volume/PG_VERSION" 2>/dev/null || true)
if [ "${1:-}" = move ]; then
    [ -n "$version" ] || fail "the root of the volume pgdata holds no database, so there is nothing to move"
    [ ! -e "$volume/postmaster.pid" ] ||
        fail "postmaster.pid says that a server runs on the volume pgdata: docker compose down ends it (if a server" \
            "was killed and none runs, remove the file:" \
            "docker compose run --rm --entrypoint rm pgdata $volume/postmaster.pid)"
    mkdir -p -m 700 "$PGDATA"
    # PG_VERSION is moved last. So after an interrupted move the volume is still refused, and the move can go on.
    # `data` is a mount point.
    find "$volume" -mindepth 1 -maxdepth 1 ! -path "$PGDATA" ! -name data ! -name PG_VERSION \
        -exec mv -t "$PGDATA" {} +
    mv "$volume/PG_VERSION" "$PGDATA"
    echo "pgdata: the database of PostgreSQL $version is in its folder: docker compose up"
    exit
fi

[ -z "$version" ] ||
    fail "the volume pgdata holds its database in the root, the layout of earlier versions of this stack; this" \
        "command moves it into a folder: docker compose down && docker compose run --rm pgdata move"
# In containers, PostgreSQL does not notice another server on its data; two servers destroy them.
running=$(cat "$volume/upgrade-running" 2>/dev/null || true)
[ ! -e "$volume/upgrade-running" ] ||
    fail "make upgrade STACK=1 still runs, or was killed, and its servers may use the volume pgdata: run make upgrade" \
        "STACK=1 again; or, to use the old version: docker rm -f $running && docker compose run --rm --entrypoint" \
        "rm pgdata $volume/upgrade-running"
# `make upgrade STACK=1` was killed after it renamed the old folder: the new one is complete.
[ -e "$PGDATA" ] || [ ! -e "$PGDATA.upgrading" ] || mv "$PGDATA.upgrading" "$PGDATA"
version=$(cat "$PGDATA/PG_VERSION" 2>/dev/null || true)
[ -z "$version" ] || [ "$version" = "$PG_MAJOR" ] ||
    fail "the volume pgdata holds a database of PostgreSQL $version, and POSTGRES_IMAGE has version $PG_MAJOR: set it" \
        "back; make upgrade STACK=1 then moves the data to a newer version (docs/upgrade.md)"
