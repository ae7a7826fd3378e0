#!/bin/sh
# Names a missing secret (libpq only says "no password supplied"), then runs `pypredict "$@"`.
set -eu

if [ -n "${PGPASSFILE:-}" ] && [ ! -r "$PGPASSFILE" ]; then
    echo "pypredict: PGPASSFILE names $PGPASSFILE, which uid $(id -u) cannot read;" \
        "the service \`secrets\` writes it: docker compose up secrets" >&2
    exit 1
fi
exec pypredict "$@"
