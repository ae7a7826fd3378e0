"""The command line: it starts fast, has help, and prints one sentence for each error."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PYML = Path(sys.executable).with_name("pyml")
EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "digits_cnn.json")


def pyml(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PYML, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=env)


def test_the_command_line_imports_no_slow_library() -> None:
    slow = "{'tensorflow', 'keras', 'wandb', 'sklearn', 'matplotlib', 'numpy', 'h5py', 'ai_edge_litert'}"
    program = f"import sys, pyml.cli; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["download", "train", "test", "all", "compare", "sync", "schema"])
def test_each_command_has_help_with_an_example(command: str) -> None:
    done = pyml(command, "--help")
    assert done.returncode == 0
    assert re.search(rf"Example:.* pyml {command}\b", " ".join(done.stdout.split()))


def test_an_unknown_experiment_gives_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    done = pyml("train", "absent.json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "pyml: absent.json cannot be read (No such file or directory); an experiment file is needed\n"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_bundle_gives_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    done = pyml("test", "absent", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "absent/manifest.json cannot be read" in done.stderr


def test_wrong_usage_gives_exit_code_2() -> None:
    assert pyml("train").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "position"),
    [(["train", ""], 2), (["all", "absent.json", "--models", ""], 4), (["train", "--group="], 2)],
)
def test_an_empty_argument_is_not_the_current_folder(tmp_path: Path, arguments: list[str], position: int) -> None:
    done = pyml(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pyml: argument {position} is empty; give a value")


def test_an_experiment_that_is_given_twice_is_in_one_share(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "experiments" / "digits_cnn.json"
    done = pyml("train", file, file, "--share", "1/2", "--models", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "share 1/2 has nothing to train" in done.stderr


def test_the_schema_is_printed_as_json() -> None:
    assert json.loads(pyml("schema").stdout)["title"] == "Experiment"


def test_an_unknown_dataset_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = pyml("download", "mnits", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "pyml: unknown dataset mnits, did you mean mnist?\n")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_dataset_without_network_stops_the_training(tmp_path: Path) -> None:
    document = {
        "name": "x",
        "data": {"name": "mnist", "validation": 0.1},
        "layers": [{"layer": "Rescaling", "scale": 1}, {"layer": "Dense", "units": 10, "activation": "softmax"}],
        "optimizer": {"name": "Adam", "learning_rate": 0.01},
        "loss": "sparse_categorical_crossentropy",
        "epochs": 1,
        "batch_size": 32,
    }
    (tmp_path / "x.json").write_text(json.dumps(document))
    environment = {**os.environ, "PYML_ORIGIN": "nowhere"}
    done = pyml("train", "x.json", "--data-dir", "there", cwd=tmp_path, env=environment)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("pyml: ")]
    assert "there/mnist has no known mnist.npz, and nowhere/mnist.npz cannot be downloaded" in said
    assert "--data-dir" in said
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "PermissionError(13, 'Permission denied', '/models/bundles')",
            "/models/bundles cannot be used (Permission denied); check",
        ),
        (
            "OSError(28, 'No space left on device')",
            "a file or the output cannot be used (No space left on device); check",
        ),
        ("OSError('the lock is lost')", "a file or the output cannot be used (the lock is lost); check"),
        ("MemoryError()", "not enough memory (MemoryError); free some, or lower batch_size"),
    ],
)
def test_an_error_of_the_system_is_one_sentence(raised: str, said: str) -> None:
    program = f"""
import sys
from pyml import cli
def fail():
    raise {raised}
cli.app.command("fail")(fail)
sys.argv = ["pyml", "fail"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    whole = said.replace("; check", "; check its path, its rights and the free disk space")
    assert (done.returncode, done.stderr) == (1, f"pyml: {whole}\n")


@pytest.mark.parametrize("command", [["test", "x"], ["train", EXPERIMENT]])
def test_a_models_folder_that_cannot_be_looked_up_is_one_sentence(command: list[str], tmp_path: Path) -> None:
    models = "x" * 300
    done = pyml(*command, "--models", models, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("Traceback")) == (1, 0)
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"pyml: {models}/bundles")
    assert said.endswith("(File name too long); check its path, its rights and the free disk space")


def test_a_pipe_that_its_reader_closes_is_no_error_message() -> None:
    process = subprocess.Popen([PYML, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert said == b""
