"""The command line: fast, explained, and one sentence for each error."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PYML = Path(sys.executable).with_name("pyml")


def pyml(*arguments: str | Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PYML, *arguments], capture_output=True, text=True, timeout=60, check=False, **kwargs)


def test_importing_the_command_line_imports_nothing_slow() -> None:
    slow = "{'tensorflow', 'keras', 'wandb', 'sklearn', 'matplotlib', 'numpy', 'h5py'}"
    program = f"import sys, pyml.cli; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", ["download", "train", "test", "all", "compare", "sync", "schema"])
def test_each_verb_has_help_with_an_example(verb: str) -> None:
    done = pyml(verb, "--help")
    assert done.returncode == 0
    assert re.search(rf"Example:.* pyml {verb}\b", " ".join(done.stdout.split()))


def test_an_unknown_experiment_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    done = pyml("train", "absent.json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "pyml: absent.json cannot be read (No such file or directory); an experiment file is needed\n"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_bundle_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    done = pyml("test", "absent", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "absent/manifest.json cannot be read" in done.stderr


def test_wrong_usage_is_exit_code_2() -> None:
    assert pyml("train").returncode == 2


def test_the_schema_is_printed_as_json() -> None:
    assert json.loads(pyml("schema").stdout)["title"] == "Experiment"


def test_a_data_set_that_is_not_known_is_one_sentence(tmp_path: Path) -> None:
    done = pyml("download", "mnits", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "pyml: unknown dataset mnits, did you mean mnist?\n")
    assert list(tmp_path.iterdir()) == []


def test_offline_and_absent_is_one_sentence_with_what_to_do_and_trains_nothing(tmp_path: Path) -> None:
    document = {
        "name": "x",
        "data": {"name": "mnist", "validation": 0.1},
        "layers": [{"layer": "Rescaling", "scale": 1}, {"layer": "Dense", "units": 10, "activation": "softmax"}],
        "optimizer": {"name": "Adam", "learning_rate": 0.01},
        "loss": "sparse_categorical_crossentropy",
        **{"epochs": 1, "batch_size": 32},
    }
    (tmp_path / "x.json").write_text(json.dumps(document))
    environment = {**os.environ, "PYML_ORIGIN": "nowhere"}
    done = pyml("train", "x.json", "--data-dir", "there", cwd=tmp_path, env=environment)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("pyml: ")]
    assert "no known mnist.npz is in there/mnist, and nowhere/mnist.npz does not give it" in said
    assert "--data-dir" in said
    assert not (tmp_path / "models").exists()
