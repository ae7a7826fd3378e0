"""The bundle's id is a fact about what decides the weights; re-runs are numbered; the commit is told where known."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bundle
import pyml
from pyml import provenance
from pyml.config import Settings
from pyml.experiment import Experiment

DOCUMENT: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "validation": 0.15, "test": 0.2},
    "layers": [{"layer": "Rescaling", "scale": 1}, {"layer": "Dense", "units": 10, "activation": "softmax"}],
    "optimizer": {"name": "Adam", "learning_rate": 0.01},
    "loss": "sparse_categorical_crossentropy",
    "epochs": 3,
    "batch_size": 32,
}
DATA = "d" * 64


def identify(document: dict[str, Any], data: str = DATA) -> str:
    return provenance.bundle_id(Experiment.model_validate_json(json.dumps(document)), data)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def test_the_id_is_the_name_and_twelve_hexadecimal_digits() -> None:
    name, _, digits = identify(DOCUMENT).rpartition("-")
    assert name == "tiny"
    assert len(digits) == 12
    assert set(digits) <= set("0123456789abcdef")


def test_the_order_of_keys_does_not_change_the_id() -> None:
    assert identify(reversed_keys(DOCUMENT)) == identify(DOCUMENT)


def test_a_default_written_out_does_not_change_the_id() -> None:
    assert identify({**DOCUMENT, "seed": 0, "early_stopping": None}) == identify(DOCUMENT)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 4},
        {"optimizer": {"name": "Adam", "learning_rate": 0.02}},
        {"data": {**DOCUMENT["data"], "split_seed": 1}},
        {"layers": [{"layer": "Rescaling", "scale": 2}, DOCUMENT["layers"][1]]},
    ],
)
def test_each_change_of_the_experiment_changes_the_id(change: dict[str, Any]) -> None:
    assert identify({**DOCUMENT, **change}) != identify(DOCUMENT)


def test_other_data_change_the_id() -> None:
    assert identify(DOCUMENT, "e" * 64) != identify(DOCUMENT)


def test_other_training_code_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identify(DOCUMENT)
    monkeypatch.setattr(provenance, "PYML_CODE", ("dataset.py", "cli.py"))
    assert identify(DOCUMENT) != before


@pytest.mark.parametrize("package", ["keras", "tensorflow"])
def test_another_version_of_the_library_changes_the_id(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    before, installed = identify(DOCUMENT), provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**installed, package: "0"})
    assert identify(DOCUMENT) != before


def test_published_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    for name in ("x-1", "x-1-run10", "x-1-run9", "x-1-runny", "x-10", ".tmp-1"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
    assert provenance.published_runs(tmp_path, "x-1") == ["x-1", "x-1-run9", "x-1-run10"]


def test_nothing_is_published_on_a_volume_that_is_not_there(tmp_path: Path) -> None:
    assert provenance.published_runs(tmp_path / "absent", "x-1") == []


@pytest.mark.parametrize(
    ("published", "following"),
    [([], "x-1"), (["x-1"], "x-1-run2"), (["x-1", "x-1-run2"], "x-1-run3"), (["x-1-run9", "x-1-run10"], "x-1-run11")],
)
def test_a_rerun_takes_the_next_number(published: list[str], following: str) -> None:
    assert provenance.next_run(published, "x-1") == following


def test_the_commit_of_the_images_build_comes_first() -> None:
    state = provenance.git_state(Settings(git_commit="c0ffee", git_dirty=True))
    assert (state.commit, state.dirty) == ("c0ffee", True)


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    state = provenance.git_state(Settings(git_commit=None))
    assert (state.commit, state.dirty) == (None, None)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which provenance takes for ours; git finds no configuration of this machine."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Someone")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "someone@localhost")
    root = tmp_path / "repository"
    for package in (pyml, bundle):
        module = root / package.__name__ / "__init__.py"
        module.parent.mkdir(parents=True)
        module.write_text("x = 1\n\n")
        monkeypatch.setattr(package, "__file__", str(module))
    monkeypatch.setattr(provenance, "__file__", str(root / "pyml/provenance.py"))
    (root / "windows.txt").write_bytes(b"one\r\ntwo\r\n \r\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def git(root: Path, *arguments: str, **options: Any) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, **options).stdout.decode()


def test_a_clean_tree_has_no_changes(repository: Path) -> None:
    assert provenance.git_changes(Settings(git_commit=None)) is None
    assert provenance.git_state(Settings(git_commit=None)).dirty is False


def test_the_patch_turns_the_commit_into_what_was_trained(repository: Path, tmp_path: Path) -> None:
    changed = {"pyml/__init__.py": b"x = 2\n\n", "windows.txt": b"one\r\n2\r\n \r\n", "pyml/new.py": b"y = '\xff'\n"}
    for name, content in changed.items():
        (repository / name).write_bytes(content)
    git(repository, "add", "windows.txt")  # staged or not: both were there
    status = git(repository, "status", "--porcelain")
    patch = provenance.git_changes(Settings(git_commit=None))
    assert patch is not None
    assert git(repository, "status", "--porcelain") == status
    git(repository, "clone", "--quiet", str(repository), str(tmp_path / "clone"))
    git(tmp_path / "clone", "apply", "-", input=patch)
    for name, content in changed.items():
        assert (tmp_path / "clone" / name).read_bytes() == content


def test_files_that_git_does_not_know_stay_out_of_the_patch_unless_they_are_modules(repository: Path) -> None:
    (repository / "credentials.json").write_text("secret")
    (repository / "pyml" / "notes.txt").write_text("secret")
    (repository / "pyml" / "new.py").write_text("y = 1\n")
    patch = provenance.git_changes(Settings(git_commit=None))
    assert patch is not None
    assert b"pyml/new.py" in patch
    assert b"secret" not in patch


def test_the_token_is_blacked_out_of_the_patch(repository: Path) -> None:
    (repository / "pyml/__init__.py").write_text("key = 'sesame'\n")
    patch = provenance.git_changes(Settings(git_commit=None, wandb_api_key="sesame"))
    assert patch is not None
    assert b"+key = '********'" in patch


def test_a_huge_patch_is_cut(repository: Path) -> None:
    (repository / "windows.txt").write_text("x" * 6_000_000)
    patch = provenance.git_changes(Settings(git_commit=None))
    assert patch is not None
    assert len(patch) < 5_000_100
    assert patch.endswith(b"[cut here, too long]\n")


def test_without_git_there_are_no_changes_to_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_changes(Settings(git_commit=None)) is None


def test_a_gate_does_not_change_the_id() -> None:
    assert identify({**DOCUMENT, "promote_if": {"accuracy": 0.9}}) == identify(DOCUMENT)


def test_versions_name_what_computes_and_records() -> None:
    assert set(provenance.versions()) == {"python", "keras", "tensorflow", "numpy", "scikit-learn", "wandb"}
    assert "unknown" not in provenance.versions().values()
