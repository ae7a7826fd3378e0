"""The command line: fast, explained, and one sentence for each error."""

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


@pytest.mark.parametrize("verb", ["train", "test", "all"])
def test_each_verb_has_help_with_an_example(verb: str) -> None:
    done = pyml(verb, "--help")
    assert done.returncode == 0
    assert f"Example: pyml {verb} " in done.stdout


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
