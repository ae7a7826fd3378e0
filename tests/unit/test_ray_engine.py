"""What the Ray engine sends to other machines: names of files, never a password."""

import logging
import sys
from pathlib import Path

import pytest

from bundle import BundleError
from bundle.ray_cluster import ray_cluster
from pyml.ray_engine import _train_one
from pypredict import PypredictError
from pypredict.config import Settings, read_settings
from pypredict.ray_engine import RayWorker, sent_environment

DSN = "postgresql://a:secret@h/ml"  # pragma: allowlist secret


def test_a_missing_ray_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(BundleError, match=r"--engine ray needs Ray: pip install .* requirements-ray.txt"),
        ray_cluster(None),
    ):
        pass


def test_a_machine_without_the_directory_is_one_sentence() -> None:
    said = "/no/such/directory cannot be used on this machine (No such file or directory)"
    assert RayWorker("/no/such/directory", {}, verbose=False).run(until_empty=True).startswith(said)
    assert _train_one("{}", {}, "/no/such/directory", logging.INFO).startswith(said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGPASSWORD", "secret"),
        ("DATABASE_URL", DSN),
        ("DATABASE_URL", "postgresql://a@h/ml?password=secret"),  # pragma: allowlist secret
        ("DATABASE_URL", "host=h user=a password=secret"),  # pragma: allowlist secret
    ],
)
def test_a_password_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(PypredictError, match="PGPASSFILE") as refused:
        sent_environment(read_settings())
    assert "secret" not in str(refused.value)


def test_the_place_of_the_password_file_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGPASSFILE", "/run/pgpass")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    sent = sent_environment(Settings(models=Path("volume")))
    assert sent["PGPASSFILE"] == "/run/pgpass"
    assert sent["PYPREDICT_MODELS"] == "volume"
    assert "secret" not in sent.values()
