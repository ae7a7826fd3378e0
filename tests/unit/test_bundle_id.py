"""The id of a bundle depends on everything that decides its weights and metrics. Reruns are numbered."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from pyml import provenance
from pyml.experiment.experiment import Experiment
from pyml.training import bundle_id

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
    return bundle_id.bundle_id(Experiment.model_validate_json(json.dumps(document)), data)


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


def test_an_explicit_default_does_not_change_the_id() -> None:
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


def test_another_dataset_changes_the_id() -> None:
    assert identify(DOCUMENT, "e" * 64) != identify(DOCUMENT)


def changed_code(tmp_path: Path, changed: str) -> tuple[str, str]:
    """Copy the sources, add one line to a module of a package, and give the code's hash before and after."""
    for name in ("bundle", "pyml"):
        shutil.copytree(REPO / name / "src" / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    program = "from pyml.training.bundle_id import code_sha256; print(code_sha256())"

    def code() -> str:
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    before = code()
    folder = tmp_path.joinpath(*changed.split("."))
    module = max(folder.glob("*.py"), key=lambda path: path.stat().st_size)
    module.write_text(module.read_text() + "# one line more\n")
    return before, code()


@pytest.mark.parametrize(
    "package",
    [
        "bundle.inference",
        "bundle.inputs",
        "pyml.datasets",
        "pyml.evaluation",
        "pyml.experiment",
        "pyml.training",
    ],
)
def test_a_change_of_hashed_code_changes_the_id(tmp_path: Path, package: str) -> None:
    before, after = changed_code(tmp_path, package)
    assert after != before


@pytest.mark.parametrize("package", ["bundle", "pyml", "pyml.promotion", "pyml.reports", "pyml.tracking"])
def test_a_change_of_other_code_does_not_change_the_id(tmp_path: Path, package: str) -> None:
    before, after = changed_code(tmp_path, package)
    assert after == before


def test_every_package_is_hashed_or_listed_as_not_hashed() -> None:
    packages = {
        ".".join(path.parent.relative_to(REPO / name / "src").parts)
        for name in ("bundle", "pyml")
        for path in (REPO / name / "src" / name).rglob("__init__.py")
    }
    others = {"bundle", "pyml", "pyml.promotion", "pyml.reports", "pyml.tracking"}
    assert packages == {*bundle_id.HASHED_PACKAGES, *others}


@pytest.mark.parametrize("package", ["keras", "tensorflow"])
def test_another_version_of_the_library_changes_the_id(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    before, installed = identify(DOCUMENT), provenance.versions()
    monkeypatch.setattr(bundle_id, "versions", lambda: {**installed, package: "0"})
    assert identify(DOCUMENT) != before


def test_published_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    for name in ("x-1", "x-1-run10", "x-1-run9", "x-1-runny", "x-10", ".tmp-1"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
    assert bundle_id.published_runs(tmp_path, "x-1") == ["x-1", "x-1-run9", "x-1-run10"]


def test_a_missing_volume_has_no_published_runs(tmp_path: Path) -> None:
    assert bundle_id.published_runs(tmp_path / "absent", "x-1") == []


@pytest.mark.parametrize(
    ("published", "following"),
    [([], "x-1"), (["x-1"], "x-1-run2"), (["x-1", "x-1-run2"], "x-1-run3"), (["x-1-run9", "x-1-run10"], "x-1-run11")],
)
def test_a_rerun_gets_the_next_number(published: list[str], following: str) -> None:
    assert bundle_id.next_run(published, "x-1") == following


def test_a_gate_does_not_change_the_id() -> None:
    assert identify({**DOCUMENT, "promote_if": {"accuracy": 0.9}}) == identify(DOCUMENT)
