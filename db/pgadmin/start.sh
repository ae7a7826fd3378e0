#!/bin/sh
# Gives pgAdmin the reader's password file at every start, then becomes the image's own entry point. The image itself
# would copy it (PGPASS_FILE) at its very first start only, so a password changed later would never arrive.
set -eu

if [ ! -r "$PASSFILE" ]; then
    echo "pgadmin: $PASSFILE cannot be read; the one-shot \`secrets\` writes it: docker compose up secrets" >&2
    exit 1
fi
# pgAdmin resolves servers.json's "/.pgpass" in the user's own storage, named by the e-mail address.
storage=/var/lib/pgadmin/storage/$(echo "$PGADMIN_DEFAULT_EMAIL" | tr @ _)
mkdir -p "$storage"
umask 077 # libpq ignores a password file that others can read
cat "$PASSFILE" >"$storage/.pgpass.new"
mv "$storage/.pgpass.new" "$storage/.pgpass"
umask 022
exec /entrypoint.sh
