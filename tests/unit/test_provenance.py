"""The origin of a bundle: the commit, the uncommitted changes, the versions."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import bundle
import pyml
from pyml import provenance
from pyml.config import Settings


def test_the_commit_of_the_image_build_has_priority() -> None:
    state = provenance.git_state(Settings(git_commit="c0ffee", git_dirty=True))
    assert (state.commit, state.dirty) == ("c0ffee", True)


def test_the_commit_is_unknown_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    state = provenance.git_state(Settings(git_commit=None))
    assert (state.commit, state.dirty) == (None, None)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with one commit, which provenance uses as ours. git reads no configuration of this machine."""
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


def git(root: Path, *arguments: str, stdin: bytes | None = None) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, input=stdin).stdout.decode()


def test_a_clean_tree_has_no_changes(repository: Path) -> None:
    assert provenance.git_changes(Settings(git_commit=None)) is None
    assert provenance.git_state(Settings(git_commit=None)).dirty is False


def test_the_patch_turns_the_commit_into_the_trained_code(repository: Path, tmp_path: Path) -> None:
    changed = {"pyml/__init__.py": b"x = 2\n\n", "windows.txt": b"one\r\n2\r\n \r\n", "pyml/new.py": b"y = '\xff'\n"}
    for name, content in changed.items():
        (repository / name).write_bytes(content)
    git(repository, "add", "windows.txt")  # staged and unstaged changes are both in the patch
    status = git(repository, "status", "--porcelain")
    patch = provenance.git_changes(Settings(git_commit=None))
    assert patch is not None
    assert git(repository, "status", "--porcelain") == status
    git(repository, "clone", "--quiet", str(repository), str(tmp_path / "clone"))
    git(tmp_path / "clone", "apply", "-", stdin=patch)
    for name, content in changed.items():
        assert (tmp_path / "clone" / name).read_bytes() == content


def test_the_patch_has_no_untracked_files_except_modules(repository: Path) -> None:
    (repository / "credentials.json").write_text("secret")
    (repository / "pyml" / "notes.txt").write_text("secret")
    (repository / "pyml" / "new.py").write_text("y = 1\n")
    patch = provenance.git_changes(Settings(git_commit=None))
    assert patch is not None
    assert b"pyml/new.py" in patch
    assert b"secret" not in patch


def test_the_token_is_replaced_in_the_patch(repository: Path) -> None:
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


def test_changes_are_none_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_changes(Settings(git_commit=None)) is None


def test_a_look_does_not_lock_the_index_of_the_user(repository: Path) -> None:
    os.utime(repository / "windows.txt", (1, 1))  # git status would note the new time
    before = (repository / ".git/index").stat().st_mtime_ns
    assert provenance.git_state(Settings(git_commit=None)).dirty is False
    assert (repository / ".git/index").stat().st_mtime_ns == before


def test_changes_are_none_without_an_index(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "windows.txt").write_text("changed")
    git = provenance._git
    monkeypatch.setattr(provenance, "_git", lambda *words: None if words[0] == "rev-parse" else git(*words))
    assert provenance.git_changes(Settings(git_commit=None)) is None


def test_changes_are_none_before_the_first_git_add(repository: Path) -> None:
    """A new repository has no index."""
    shutil.rmtree(repository / ".git")
    git(repository, "init", "--quiet")
    assert provenance.git_changes(Settings(git_commit=None)) is None
    state = provenance.git_state(Settings(git_commit=None))
    assert (state.commit, state.dirty) == (None, None)


def test_versions_name_the_libraries_for_training_and_tracking() -> None:
    libraries = {"python", "keras", "tensorflow", "ai-edge-litert", "numpy", "scikit-learn", "wandb"}
    assert set(provenance.versions()) == libraries
    assert "unknown" not in provenance.versions().values()
