"""The origin of a bundle: the commit and its uncommitted changes, the library versions, the machine."""

import os
import platform
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import bundle
import pyml
from bundle.inference.platform import processor
from bundle.manifest import GitState
from pyml import PymlError
from pyml.config import Settings

MAX_PATCH_BYTES = 5_000_000


def git_state(settings: Settings) -> GitState:
    """Give the commit: from the environment (the image's build sets it), else from the git tree of this source."""
    if settings.git_commit:
        return GitState(commit=settings.git_commit, dirty=settings.git_dirty)
    commit = (_git("rev-parse", "HEAD") or b"").decode().strip()
    changes = _git("status", "--porcelain")
    return GitState(commit=commit or None, dirty=None if not commit or changes is None else bool(changes))


def git_changes(settings: Settings) -> bytes | None:
    """Give the uncommitted changes of the source tree as a patch: changed tracked files, new modules of our packages.

    Other untracked files are left out, because they can be private. The W&B token is replaced by asterisks. Returns
    None if nothing changed, or if git cannot say it: there is none in the container, and no index in a new repository.
    """
    if settings.git_commit or not _git("status", "--porcelain"):
        return None
    sources = [str(Path(str(package.__file__)).parent / "*.py") for package in (pyml, bundle)]
    new = _git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", *sources) or b""
    index = _git("rev-parse", "--path-format=absolute", "--git-path", "index")
    if not index:
        return None
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "index"  # a copy, so that the real index does not change
        try:
            shutil.copyfile(os.fsdecode(index.strip()), copy)
        except OSError:  # a new repository has no index before the first git add
            return None
        environment = {"GIT_INDEX_FILE": str(copy)}
        for path in filter(None, new.split(b"\0")):
            _git("add", "--intent-to-add", "--", f":/{os.fsdecode(path)}", **environment)
        patch = _git("diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD", "--", ":/", **environment) or b""
    if settings.wandb_api_key:
        patch = patch.replace(settings.wandb_api_key.get_secret_value().encode(), b"*" * 8)
    if len(patch) > MAX_PATCH_BYTES:
        patch = patch[:MAX_PATCH_BYTES] + b"\n[cut here, too long]\n"
    return patch or None


def check_clean(settings: Settings) -> None:
    """Raise PymlError unless the git tree is known to have no uncommitted changes."""
    state = git_state(settings)
    if state.dirty is None:
        raise PymlError("--require-clean: it is not known whether the git tree is clean (no git, or no repository)")
    if state.dirty:
        raise PymlError(
            "--require-clean: the git tree has changes that are not committed (git status lists them); commit or stash "
            "them, or train without --require-clean"
        )


def versions() -> dict[str, str]:
    """List the versions of Python and of the libraries for training and tracking, without importing them."""
    packages = ("keras", "numpy", "scikit-learn", "wandb", "ai-edge-litert")
    tensorflow = _version("tensorflow-cpu") or _version("tensorflow") or "unknown"
    found = {package: _version(package) or "unknown" for package in packages}
    return {"python": platform.python_version(), "tensorflow": tensorflow, **found}


def machine() -> str:
    """Describe the machine (processor, cores, memory, system) without its host name."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{processor()}, {os.cpu_count()} cores, {memory_bytes / 2**30:.0f} GiB, {platform.system()}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str, **environment: str) -> bytes | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", **environment}  # a commit of the user at this moment must not fail
    try:
        return subprocess.run(command, env=env, capture_output=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None  # no git, no repository, or a repository of another user
