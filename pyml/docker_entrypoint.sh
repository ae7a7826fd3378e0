#!/bin/sh
# Pass the W&B token in the environment (never in argv, never in ~/.netrc) and run `pyml "$@"`.
# The token comes from WANDB_TOKEN or from the file that WANDB_TOKEN_FILE names. Without both, or with an empty file,
# the run is recorded offline.
set -eu

fail() {
    echo "pyml: $*" >&2
    exit 1
}

token=${WANDB_TOKEN:-}
if [ -n "${WANDB_TOKEN_FILE:-}" ]; then
    [ -e "$WANDB_TOKEN_FILE" ] || fail "WANDB_TOKEN_FILE names $WANDB_TOKEN_FILE, which does not exist"
    [ -r "$WANDB_TOKEN_FILE" ] ||
        fail "WANDB_TOKEN_FILE names $WANDB_TOKEN_FILE, which uid $(id -u) cannot read; chmod 644 it, its directory 700"
    from_file=$(tr -d '\r\n' <"$WANDB_TOKEN_FILE")
    if [ -n "$token" ] && [ -n "$from_file" ]; then
        fail "the W&B token came twice, by WANDB_TOKEN and by WANDB_TOKEN_FILE; give only one of them"
    fi
    token=${token:-$from_file}
fi
unset WANDB_TOKEN WANDB_TOKEN_FILE from_file
if [ -n "$token" ]; then
    export WANDB_API_KEY="$token"
fi
# Lock the models volume until the trainer ends, also if it is killed. db/ready.py waits for the lock.
exec 9<"$PYML_MODELS"
flock --shared 9
exec pyml "$@"
