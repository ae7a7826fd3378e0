"""Every command of the trainer in its container, on the volumes of the first `up`."""

import json
import subprocess

import pytest
from compose.stack import Stack


def pyml(stack: Stack, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return stack.compose("run", "--rm", "--no-TTY", "--no-deps", "pyml", *arguments, check=check)


@pytest.fixture(scope="module")
def bundle(stack: Stack) -> str:
    ((name,),) = stack.sql("SELECT bundle_id FROM ml.model WHERE model_id = 1")
    return name


def test_published_bundle_is_tested_again(stack: Stack, bundle: str) -> None:
    said = pyml(stack, "test", bundle).stdout
    assert "equal" in said
    assert "DIFFERENT" not in said


def test_command_all_tests_a_published_bundle(stack: Stack) -> None:
    done = pyml(stack, "all", "experiments/digits_cnn.json")
    assert "nothing trained" in done.stdout + done.stderr
    assert "equal" in done.stdout


def test_command_compare_lists_the_bundle(stack: Stack, bundle: str) -> None:
    assert bundle in pyml(stack, "compare").stdout


def test_command_schema_prints_the_json_schema(stack: Stack) -> None:
    assert json.loads(pyml(stack, "schema").stdout)["properties"]["layers"]


def test_failed_download_is_one_sentence(stack: Stack) -> None:
    arguments = ("run", "--rm", "--no-TTY", "--no-deps", "--env", "PYML_ORIGIN=http://127.0.0.1:9", "pyml")
    done = stack.compose(*arguments, "download", "mnist", check=False)
    assert done.returncode == 1
    assert "or a mirror with PYML_ORIGIN" in done.stderr
    assert "Traceback" not in done.stderr


def test_sync_without_a_token_keeps_the_record(stack: Stack) -> None:
    done = pyml(stack, "sync", check=False)
    assert done.returncode == 1
    assert "there is no W&B token, so the recorded runs" in done.stderr
