#!/bin/sh
# Says which secret is missing, where libpq would only say "no password supplied", and becomes `pypredict "$@"`.
set -eu

if [ -n "${PGPASSFILE:-}" ] && [ ! -r "$PGPASSFILE" ]; then
    echo "pypredict: PGPASSFILE names $PGPASSFILE, which uid $(id -u) cannot read;" \
        "the one-shot \`secrets\` writes it: docker compose up secrets" >&2
    exit 1
fi
exec pypredict "$@"
