"""Settings are read from the environment."""

from pathlib import Path

import pytest

from pyml import PymlError
from pyml.config import Settings, read_settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field, info in Settings.model_fields.items():
        monkeypatch.delenv(str(info.validation_alias or f"PYML_{field.upper()}"), raising=False)


def test_default_paths_are_below_the_working_directory() -> None:
    settings = read_settings()
    assert (settings.models, settings.record) == (Path("models"), Path(".local/wandb"))
    assert settings.data_dir == Path("data")
    assert settings.wandb_api_key is None


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY", "GIT_COMMIT", "GIT_DIRTY", "PYML_MODELS"):
        monkeypatch.setenv(name, "")
    assert read_settings() == Settings()


def test_settings_are_read_from_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYML_MODELS", "/models")
    monkeypatch.setenv("PYML_DATA_DIR", "/data")
    monkeypatch.setenv("PYML_MEMORY_MB", "7")
    monkeypatch.setenv("PYML_ORIGIN", "http://mirror.example")
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("GIT_DIRTY", "true")
    settings = read_settings()
    assert (settings.models, settings.wandb_project, settings.git_dirty) == (Path("/models"), "ours", True)
    assert (settings.data_dir, settings.memory_mb, settings.origin) == (Path("/data"), 7, "http://mirror.example")


def test_an_invalid_variable_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(PymlError, match=r"WANDB_MODE: input should be 'online', 'offline' or 'disabled'"):
        read_settings()


def test_the_token_is_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    assert "very-secret" not in repr(read_settings())
