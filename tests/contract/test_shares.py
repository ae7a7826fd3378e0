"""`pyml train GRID --share I/N`: real trainings of each share, then the command without --share."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.trainings import DIGITS, PYML, pyml, recorded_groups, write_experiment

from bundle.publish import STAGING_PREFIX, list_bundles
from bundle.verify import open_bundle


def manifests(models: Path) -> dict[str, dict[str, object]]:
    return {path.name: json.loads((path / "manifest.json").read_text()) for path in list_bundles(models)}


def unpublished(models: Path) -> list[Path]:
    return sorted((models / "bundles").glob(f"{STAGING_PREFIX}*"))


def proposed(models: Path) -> object:
    return json.loads((models / "current" / "digits.json").read_text())["bundle_id"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shares of a grid of three experiments, trained one after the other on one models volume."""
    directory = tmp_path_factory.mktemp("shares")
    grid = write_experiment(directory, DIGITS, name="grid", epochs=[1, 3, 2])
    for number in range(2):
        done = pyml("train", grid, "--share", f"{number}/2", cwd=directory, PYML_MODELS="models", WANDB_MODE="offline")
        assert done.returncode == 0, done.stderr
    return directory


def test_shares_publish_each_experiment_once_and_propose_none(directory: Path) -> None:
    names = sorted(str(manifest["name"]) for manifest in manifests(directory / "models").values())
    assert names == ["grid-epochs_1", "grid-epochs_2", "grid-epochs_3"]
    assert not (directory / "models" / "current").exists()


def test_shares_have_one_group_in_wandb(directory: Path) -> None:
    assert recorded_groups(directory / ".local/wandb") == ["grid"] * 3


def test_the_command_without_share_proposes_as_an_unshared_run_does(directory: Path) -> None:
    grid = directory / "grid.json"
    after = pyml("train", grid, cwd=directory, PYML_MODELS="models")
    assert after.returncode == 0, after.stderr
    assert after.stderr.count("nothing trained") == 3
    unshared = pyml("train", grid, cwd=directory, PYML_MODELS="unshared")
    assert unshared.returncode == 0, unshared.stderr
    assert proposed(directory / "models") == proposed(directory / "unshared")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shares in two processes: the second begins and ends while the first is stopped within its training."""
    directory = tmp_path_factory.mktemp("together")
    grid = write_experiment(directory, DIGITS, name="grid", epochs=[2, 1])
    environment = {"PYML_MODELS": "models", "WANDB_MODE": "offline", "WANDB_RUN_GROUP": "sweep"}
    first = subprocess.Popen(
        [PYML, "train", grid, "--share", "0/2"],
        cwd=directory,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert first.stderr
        assert any(line.startswith("training grid-epochs_2") for line in first.stderr)
        first.send_signal(signal.SIGSTOP)
        staged = unpublished(directory / "models")
        assert staged
        second = pyml("train", grid, "--share", "1/2", cwd=directory, **environment)
        assert second.returncode == 0, second.stderr
        assert [str(one["name"]) for one in manifests(directory / "models").values()] == ["grid-epochs_1"]
        assert unpublished(directory / "models") == staged
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=200)
        assert first.returncode == 0, said
    finally:
        first.kill()
        first.wait()
    return directory


def test_two_shares_publish_at_the_same_time(together: Path) -> None:
    models = together / "models"
    assert [open_bundle(path).manifest.name for path in list_bundles(models)] == ["grid-epochs_1", "grid-epochs_2"]
    assert unpublished(models) == []
    assert not (models / "current").exists()


def test_shares_keep_the_group_of_the_environment(together: Path) -> None:
    assert recorded_groups(together / ".local/wandb") == ["sweep"] * 2


def test_one_experiment_is_trained_by_share_0(tmp_path: Path) -> None:
    done = pyml("train", write_experiment(tmp_path, DIGITS), "--share", "0/2", cwd=tmp_path, PYML_MODELS="models")
    assert done.returncode == 0, done.stderr
    assert len(list_bundles(tmp_path / "models")) == 1
    assert not (tmp_path / "models" / "current").exists()


def test_a_share_without_experiments_trains_nothing(tmp_path: Path) -> None:
    done = pyml("train", write_experiment(tmp_path, DIGITS), "--share", "1/2", cwd=tmp_path, PYML_MODELS="models")
    assert done.returncode == 0, done.stderr
    assert "share 1/2 has nothing to train: there are more shares than experiments" in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("options", [["--share", "2/2"], ["--share", "0/2", "--promote"]])
def test_a_wrong_share_is_one_sentence(options: list[str], tmp_path: Path) -> None:
    done = pyml("train", write_experiment(tmp_path, DIGITS), *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("pyml: ")
    assert done.stderr.count("\n") == 1
