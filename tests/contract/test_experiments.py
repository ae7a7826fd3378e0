"""Train several experiments and grids by one command: order, groups, the current model, errors, determinism."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.trainings import DIGITS, LAST, PYML, only_bundle, pyml, settings_without_wandb, write_experiment

from bundle.verify import open_bundle, open_current
from pyml.config import Settings
from pyml.experiment.experiment import Experiment, read_experiments
from pyml.training.train import train


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_without_wandb(tmp_path)


# Several experiments


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of two experiments and a file of one, trained in one process; then the file alone in another process."""
    directory = tmp_path_factory.mktemp("sequence")
    grid = write_experiment(directory, DIGITS, name="grid", optimizer={"name": "Adam", "learning_rate": [0.01, 0.001]})
    alone = write_experiment(directory, DIGITS, name="alone", seed=3)
    done = pyml("train", grid, alone, cwd=directory, PYML_MODELS="models", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    done = pyml("train", alone, cwd=directory, PYML_MODELS="again")
    assert done.returncode == 0, done.stderr
    return directory


def test_several_files_and_grids_are_trained_in_sequence(sequence: Path) -> None:
    bundles = [open_bundle(path) for path in (sequence / "models/bundles").iterdir()]
    bundles.sort(key=lambda bundle: bundle.manifest.created_at)
    assert [bundle.manifest.name for bundle in bundles] == [
        "grid-learning_rate_0.01",
        "grid-learning_rate_0.001",
        "alone",
    ]
    rates = [Experiment.model_validate(bundle.manifest.experiment).optimizer.learning_rate for bundle in bundles]
    assert rates == [0.01, 0.001, 0.01]


def test_several_experiments_are_one_group_in_wandb(sequence: Path) -> None:
    groups = []
    for run in (sequence / ".local/wandb/wandb").glob("offline-run-*"):
        inspect: list[str | Path] = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", run]
        done = subprocess.run(inspect, capture_output=True, text=True, timeout=60, check=True)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        groups += [record["run"]["run_group"] for record in records if record["type"] == "run"]
    assert groups == ["grid+alone"] * 3


def test_earlier_trainings_do_not_change_the_weights(sequence: Path) -> None:
    after_others, alone = (only_bundle(sequence / models, "alone") for models in ("models", "again"))
    assert after_others.path.name == alone.path.name
    assert after_others.model_sha256 == alone.model_sha256


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A grid whose last experiment is much worse than the others, trained by one command."""
    directory = tmp_path_factory.mktemp("grid")
    return directory, pyml("train", write_experiment(directory, DIGITS, name="grid", epochs=[2, 12, 1]), cwd=directory)


def current(directory: Path) -> str:
    models = directory / "models"
    return open_current(models, models / "current/digits.json").manifest.name


def test_the_best_experiment_of_a_grid_becomes_current(
    grid: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    directory, done = grid
    assert current(directory) == "grid-epochs_12"
    assert re.search(
        r"digits: grid-epochs_12-\w+ is the best of 3 experiments on the validation set, accuracy 0\.9", done.stderr
    )


def test_a_worse_experiment_becomes_current_only_with_promote(
    grid: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    directory, _ = grid
    poor = write_experiment(directory, DIGITS, name="poor", epochs=1)
    done = pyml("train", poor, cwd=directory)
    assert re.search(
        r"poor-\w+ is not proposed: its accuracy on the same test set is 0\.\d+, grid-epochs_12-\w+ has", done.stderr
    )
    assert current(directory) == "grid-epochs_12"
    assert "nothing trained" in pyml("train", poor, "--promote", cwd=directory).stderr
    assert current(directory) == "poor"


def test_a_mistake_in_any_file_stops_all_trainings(tmp_path: Path) -> None:
    good = write_experiment(tmp_path, DIGITS, name="good")
    pooled = [DIGITS["layers"][0], {"layer": "MaxPooling2D", "pool_size": 9}, {"layer": "Flatten"}, LAST]
    bad = write_experiment(tmp_path, DIGITS, name="bad", layers=pooled)
    done = pyml("train", good, bad, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pyml: experiment bad: layers.1, MaxPooling2D(pool_size=9)")
    assert "training" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_failed_experiment_does_not_stop_the_others(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    from pyml import PymlError
    from pyml.cli_train import _train

    exploding = [*DIGITS["layers"][:-1], {"layer": "Dense", "units": 64, "activation": "exponential"}, LAST]
    diverging = {"layers": exploding, "optimizer": {"name": "SGD", "learning_rate": 1e10}}
    settings.data_dir.mkdir()
    paths = [
        write_experiment(settings.data_dir, DIGITS, name="bad", **diverging),
        write_experiment(settings.data_dir, DIGITS, name="good"),
    ]
    with (
        caplog.at_level(logging.ERROR, "pyml"),
        pytest.raises(PymlError, match="1 of 2 experiments failed: bad"),
    ):
        _train(paths, settings, promote=False, force=False, require_clean=False, quiet=True)
    assert "diverged" in caplog.text
    assert only_bundle(settings.models, "good")


def test_all_tests_the_bundles_if_another_experiment_fails(tmp_path: Path) -> None:
    exploding = [*DIGITS["layers"][:-1], {"layer": "Dense", "units": 64, "activation": "exponential"}, LAST]
    diverging = {"layers": exploding, "optimizer": {"name": "SGD", "learning_rate": 1e10}}
    paths = [
        write_experiment(tmp_path, DIGITS, name="bad", **diverging),
        write_experiment(tmp_path, DIGITS, name="good"),
    ]
    done = pyml("all", *paths, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "pyml: 1 of 2 experiments failed: bad"
    assert "manifest" in done.stdout
    assert "DIFFERENT" not in done.stdout


# Determinism, the git tree, a killed trainer


def test_a_training_works_without_determinism(settings: Settings, tmp_path: Path) -> None:
    from tensorflow.python.framework.config import is_op_determinism_enabled

    for deterministic in (False, True):
        (experiment,) = read_experiments(write_experiment(tmp_path, DIGITS, deterministic=deterministic))
        bundle, _ = train(experiment, settings)
        assert bundle.manifest.experiment["deterministic"] is deterministic
        assert is_op_determinism_enabled() is deterministic


@pytest.mark.parametrize(
    ("state", "said"), [("true", "the git tree has changes"), ("false", None), ("", "not known whether")]
)
def test_check_clean_refuses_a_dirty_tree(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, state: str, said: str | None
) -> None:
    from pyml import PymlError
    from pyml.provenance import check_clean

    built = settings.model_copy(update={"git_commit": "c0ffee", "git_dirty": {"true": True, "false": False}.get(state)})
    if said is None:
        check_clean(built)
    else:
        with pytest.raises(PymlError, match=said):
            check_clean(built)


def test_require_clean_stops_the_training_in_a_dirty_tree(tmp_path: Path) -> None:
    done = pyml(
        "train",
        write_experiment(tmp_path, DIGITS),
        "--require-clean",
        cwd=tmp_path,
        GIT_COMMIT="c0ffee",
        GIT_DIRTY="true",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("pyml: --require-clean: the git tree has changes")
    assert not (tmp_path / "models").exists()


@pytest.fixture
def long_training(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real trainer during a training that does not end."""
    process = subprocess.Popen(
        [PYML, "train", write_experiment(tmp_path, DIGITS, epochs=1_000_000)],
        cwd=tmp_path,
        env={**os.environ, "WANDB_MODE": "disabled"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    yield process
    process.kill()
    process.wait()


def test_26_a_killed_training_leaves_only_a_temporary_directory(
    long_training: subprocess.Popen[str], tmp_path: Path
) -> None:
    long_training.send_signal(signal.SIGKILL)
    long_training.wait()
    (left,) = [path for path in (tmp_path / "models/bundles").iterdir() if path.is_dir()]
    assert left.name.startswith(".tmp-")
    assert not (tmp_path / "models/current").exists()
