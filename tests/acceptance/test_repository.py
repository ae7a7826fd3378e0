"""Rules for the files of the repository: no secrets, no models, no large files, hashed requirements."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPO

SCAN = (
    str(Path(sys.executable).parent / "detect-secrets-hook"),
    "--exclude-files",
    r"(requirements(-\w+)?|constraints)\.txt$",
)
LOCK = re.compile(r"(^|/)requirements(-\w+)?\.txt$")


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=REPO, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    files = [name for name in git("ls-files") if (REPO / name).is_file()]
    assert len(files) > 20, "the tests of the repository need a git checkout"
    return files


def scan(*files: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SCAN, *files], cwd=cwd, capture_output=True, text=True, check=False)


def test_no_tracked_file_holds_a_secret(tracked: list[str]) -> None:
    done = scan(*tracked)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("line", ["WANDB_API_KEY={hex}", "password = '{hex}'", "-----BEGIN RSA PRIVATE {key}-----"])
def test_the_scan_finds_a_secret_that_is_there(tmp_path: Path, line: str) -> None:
    (tmp_path / "leak.env").write_text(line.format(hex=os.urandom(20).hex(), key="KEY") + "\n")
    assert scan("leak.env", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        "secrets/wandb_token",
        "models/bundles/x/model.h5",
        "data/mnist.npz",
        "a/model.keras",
        "x.npy",
        ".local/postgres/pgpass",
        "wandb/run/x.wandb",
        "some.pgpass",
        ".netrc",
        "key.pem",
        ".venv/pip",
    ],
)
def test_git_ignores_secrets_models_and_data(name: str) -> None:
    assert git("check-ignore", "--no-index", name) == [name]


def test_git_keeps_the_example_environment() -> None:
    assert git("check-ignore", "--no-index", ".env.example") == []


def test_the_docker_context_is_an_allow_list() -> None:
    lines = [line for line in (REPO / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert not [name for name in allowed if re.match(r"\.|models|data|secrets|tests", name)]


def test_scripts_are_executable(tracked: list[str]) -> None:
    scripts = [name for name in tracked if (REPO / name).read_bytes()[:2] == b"#!"]
    assert scripts
    assert [name for name in scripts if not os.access(REPO / name, os.X_OK)] == []


def test_every_requirement_has_a_hash_and_no_index(tracked: list[str]) -> None:
    locks = [name for name in tracked if LOCK.search(name)]
    assert len(locks) >= 7
    for name in locks:
        text = (REPO / name).read_text()
        assert not re.search(r"--(extra-)?index-url|--trusted-host|https?://", text), name
        requirements = re.findall(r"^[A-Za-z0-9].*", text.replace("\\\n", " "), re.MULTILINE)
        assert requirements, name
        assert [line[:60] for line in requirements if "--hash=sha256:" not in line] == [], name


def test_locks_are_installed_as_they_are(tracked: list[str]) -> None:
    """Without --no-deps, pip 23.2 takes the newest release of a package with extras, which the lock does not have."""
    installing = [name for name in tracked if Path(name).name in ("Makefile", "Dockerfile")]
    commands = [
        line
        for name in installing
        for line in (REPO / name).read_text().replace("\\\n", " ").splitlines()
        if "--require-hashes" in line
    ]
    assert len(commands) >= 3
    assert [line for line in commands if "--no-deps" not in line] == []


def test_locked_versions_agree_between_the_parts(tracked: list[str]) -> None:
    """Of all parts but the other programs of the benchmarks, which have an environment of their own."""
    versions: dict[str, set[str]] = {}
    ours = [name for name in tracked if LOCK.search(name) and not name.startswith("benchmarks/peers/")]
    for name in ours:
        for package, version, marker in re.findall(
            r"^([A-Za-z0-9_.-]+)==(\S+)(?: ; (.*?))? \\$", (REPO / name).read_text(), re.MULTILINE
        ):
            versions.setdefault(f"{package} ; {marker}", set()).add(version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_each_mutant_by_hand_changes_a_text_that_its_file_has_once() -> None:
    table = tomllib.loads((REPO / "tests/mutants/mutants.toml").read_text())
    assert len(table["by_hand"]) > 50
    for mutant in table["by_hand"]:
        assert mutant["path"] in table["tests"], mutant["name"]
        assert (REPO / mutant["path"]).read_text().count(mutant["old"]) == 1, mutant["name"]


def test_no_large_file_is_tracked(tracked: list[str]) -> None:
    assert [name for name in tracked if (REPO / name).stat().st_size > 1_500_000] == []
