#!/bin/sh
# Hands the W&B token on in the environment, never in argv and never in ~/.netrc, and becomes `pyml "$@"`.
# The token comes from WANDB_TOKEN or from the file that WANDB_TOKEN_FILE names; with neither, or an empty file, the
# run is recorded offline.
set -eu

fail() {
    echo "pyml: $*" >&2
    exit 1
}

token=${WANDB_TOKEN:-}
if [ -n "${WANDB_TOKEN_FILE:-}" ]; then
    [ -e "$WANDB_TOKEN_FILE" ] || fail "WANDB_TOKEN_FILE names $WANDB_TOKEN_FILE, which is not there"
    [ -r "$WANDB_TOKEN_FILE" ] ||
        fail "WANDB_TOKEN_FILE names $WANDB_TOKEN_FILE, which uid $(id -u) cannot read: chmod 644 it in a directory of 700"
    from_file=$(tr -d '\r\n' <"$WANDB_TOKEN_FILE")
    if [ -n "$token" ] && [ -n "$from_file" ]; then
        fail "the W&B token came twice, by WANDB_TOKEN and by WANDB_TOKEN_FILE; give one of them"
    fi
    token=${token:-$from_file}
fi
unset WANDB_TOKEN WANDB_TOKEN_FILE from_file
if [ -n "$token" ]; then
    export WANDB_API_KEY="$token"
fi
# Held until the trainer ends, however it ends: db/ready.py waits for that.
exec 9<"$PYML_MODELS"
flock --shared 9
exec pyml "$@"
