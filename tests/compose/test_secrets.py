"""Where passwords and tokens are, and where they must not be."""

import hashlib
import json
from pathlib import Path

import pytest
from compose.stack import DAEMONS, Stack

TOKEN = "0123456789abcdef" * 3
CONNECT = "import psycopg; print(psycopg.connect('service=ml host=db user=reader dbname=ml').info.password)"
READ = {
    "ml_owner": ("db", "cat /run/secrets/owner/password"),
    "pypredict": ("pypredict", "cut -d: -f5 /run/secrets/pypredict/pgpass"),
    "reader": ("pgadmin", "sed -n s/^password=//p /run/secrets/reader/pg_service.conf"),
}


def password(stack: Stack, role: str) -> str:
    service, command = READ[role]
    return stack.run_in(service, *command.split()).stdout.strip()


def places(stack: Stack) -> dict[str, str]:
    """Map the name of each place that a user of the host may read to its text."""
    containers = stack.call(
        "docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}"
    )
    ids = containers.stdout.split()
    found = {"docker inspect": stack.call("docker", "inspect", *ids).stdout}
    for container in ids:
        logs = stack.call("docker", "logs", container)
        found[f"docker logs {container}"] = logs.stdout + logs.stderr
        if stack.inspect(container)["State"]["Running"]:
            found[f"docker top {container}"] = stack.call("docker", "top", container, "axo", "pid,args").stdout
    for image in ("pyml", "pypredict"):
        name = f"{stack.project}-{image}"
        found[f"docker history {image}"] = stack.call("docker", "history", "--no-trunc", name).stdout
        found[f"docker image inspect {image}"] = stack.call("docker", "image", "inspect", name).stdout
    found["docker compose logs"] = stack.compose("logs", "--no-color").stdout
    found["docker compose config"] = stack.compose("config").stdout
    return found


def test_each_role_has_its_own_password(stack: Stack) -> None:
    passwords = {password(stack, role) for role in READ}
    assert len(passwords) == 3
    assert min(map(len, passwords)) >= 32


def test_passwords_are_not_in_inspect_history_logs_or_processes(stack: Stack) -> None:
    found = places(stack)
    assert "pypredict run" in "".join(text for place, text in found.items() if place.startswith("docker top"))
    for role in READ:
        value = password(stack, role)
        assert [place for place, text in found.items() if value in text] == []


@pytest.mark.parametrize(
    ("service", "file", "mode"),
    [
        ("db", "/run/secrets/owner/password", "440 10001 999"),
        ("db", "/run/secrets/owner/pgpass", "600 10001 10001"),
        ("pypredict", "/run/secrets/pypredict/pgpass", "600 10001 10001"),
        ("pgadmin", "/run/secrets/reader/pg_service.conf", "440 10001 5050"),
    ],
)
def test_password_file_is_readable_only_by_its_service(stack: Stack, service: str, file: str, mode: str) -> None:
    assert stack.run_in(service, "stat", "-c", "%a %u %g", file).stdout.strip() == mode


def test_network_login_needs_a_password(stack: Stack) -> None:
    query = ("psql", "-h", "db", "-U", "ml_owner", "-d", "ml", "--no-password", "-c", "SELECT 1")
    done = stack.run_in("db", *query, check=False)
    assert done.returncode != 0
    assert "no password supplied" in done.stderr


@pytest.fixture
def token_file(stack: Stack) -> Path:
    path = stack.directory / "secrets/wandb_token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o644)
    return path


def entry_point(stack: Stack, tmp_path: Path, **environment: str) -> tuple[int, str]:
    """Start the trainer's container with a `pyml` that only tells what it was given."""
    fake = tmp_path / "pyml"
    fake.write_text(
        "#!/bin/sh\n"
        'printf %s "${WANDB_API_KEY:-none}" | sha256sum | cut -c1-64\n'
        'env | grep -c "^WANDB_TOKEN" ; tr "\\0" " " </proc/$$/cmdline; ls -A "$HOME"\n'
    )
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    options = ("run", "--rm", "--no-deps", "--no-TTY", "--volume", f"{fake}:/opt/venv/bin/pyml:ro")
    done = stack.compose(*options, "pyml", "train", "x.json", check=False, timeout=300, **environment)
    return done.returncode, done.stdout + done.stderr


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_token_file_reaches_only_the_trainer(stack: Stack, token_file: Path, tmp_path: Path) -> None:
    code, text = entry_point(stack, tmp_path, WANDB_TOKEN_FILE="secrets/wandb_token")
    digest, variables, *rest = [line for line in text.splitlines() if "Container" not in line]
    assert (code, digest, variables) == (0, sha256(TOKEN), "0")
    assert TOKEN not in text
    assert ".netrc" not in "".join(rest)


def test_token_variable_reaches_the_trainer(stack: Stack, tmp_path: Path) -> None:
    code, text = entry_point(stack, tmp_path, WANDB_TOKEN=TOKEN)
    assert (code, sha256(TOKEN) in text) == (0, True)


def test_trainer_without_a_token_gets_none(stack: Stack, tmp_path: Path) -> None:
    code, text = entry_point(stack, tmp_path)
    assert (code, sha256("none") in text) == (0, True)


def test_two_tokens_are_refused(stack: Stack, token_file: Path, tmp_path: Path) -> None:
    code, text = entry_point(stack, tmp_path, WANDB_TOKEN="another", WANDB_TOKEN_FILE="secrets/wandb_token")
    assert code != 0
    assert "WANDB_TOKEN and by WANDB_TOKEN_FILE" in text


def test_unreadable_token_file_is_named(stack: Stack, token_file: Path, tmp_path: Path) -> None:
    token_file.chmod(0o600)
    code, text = entry_point(stack, tmp_path, WANDB_TOKEN_FILE="secrets/wandb_token")
    assert code != 0
    assert "WANDB_TOKEN_FILE" in text
    assert "chmod 644" in text


def test_token_is_shown_nowhere_during_a_training(stack: Stack, token_file: Path) -> None:
    experiment = json.loads((stack.directory / "experiments/digits_cnn.json").read_text())
    experiment |= {"name": "digits_token", "epochs": 400, "early_stopping": None}
    (stack.directory / "experiments/digits_token.json").write_text(json.dumps(experiment))
    nowhere = {"WANDB_TOKEN_FILE": "secrets/wandb_token", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    options = ("run", "--detach", "--no-deps", "--name", f"{stack.project}-token")
    stack.compose(*options, "pyml", "train", "experiments/digits_token.json", check=True, timeout=300, **nowhere)
    name = f"{stack.project}-token"
    try:
        stack.until(lambda: "epoch 2/" in stack.call("docker", "logs", name).stderr, "the training goes on", 120)
        found = places(stack)
        assert "pyml train" in "".join(text for place, text in found.items() if place.startswith("docker top"))
        assert [place for place, text in found.items() if TOKEN in text] == []
    finally:
        stack.call("docker", "rm", "--force", name, check=False)


def started(stack: Stack) -> dict[str, str]:
    """Map each daemon to the time when its container was started."""
    return {service: stack.inspect(stack.container(service))["State"]["StartedAt"] for service in DAEMONS}


def test_own_password_replaces_the_generated_one(stack: Stack) -> None:
    generated = password(stack, "reader")
    (stack.directory / "secrets/reader").write_text("my-own-words\n")
    before = started(stack)
    stack.up()
    assert started(stack) == before
    assert password(stack, "reader") == "my-own-words" != generated
    query = "psql -h db -U reader -d ml -Atc 'SELECT current_user, count(*) > 0 FROM ml.prediction'"
    assert stack.run_in("db", "sh", "-c", f"PGPASSWORD=my-own-words {query}").stdout.strip() == "reader|t"
    assert stack.run_in("db", "sh", "-c", f"PGPASSWORD={generated} {query}", check=False).returncode != 0
    assert stack.run_in("pgadmin", "/venv/bin/python3", "-c", CONNECT).stdout.strip() == "my-own-words"


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("two words\n", 0o644, "one line without blanks"),
        ("semi:colon\n", 0o644, "colons"),
        ("\n", 0o644, "one line"),
        ("gehe\u00edm\n", 0o644, "ASCII"),
        ("unreadable\n", 0o600, "cannot be read by uid 10001"),
    ],
)
def test_bad_password_file_is_refused_by_name(stack: Stack, text: str, mode: int, complaint: str) -> None:
    path = stack.directory / "secrets/pypredict"
    path.write_text(text)
    path.chmod(mode)
    try:
        done = stack.compose("run", "--rm", "--no-TTY", "secrets", check=False)
        assert done.returncode == 1
        (sentence,) = [line for line in done.stderr.splitlines() if "secrets/pypredict" in line]
        assert complaint in sentence
    finally:
        path.unlink()
