"""The settings of the predict service. `cli` reads them once from the environment (PYPREDICT_*, DATABASE_URL)."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pypredict import PypredictError


class Settings(BaseSettings):
    """The places of the models and the database, the times of the worker, and the form of the log.

    Times are in seconds, finite. db_disk: the disk space that the operator gives to the database server.
    """

    model_config = SettingsConfigDict(env_prefix="PYPREDICT_", frozen=True, allow_inf_nan=False)

    models: Path = Path("models")
    db: Path = Path("db")
    database_url: str | None = Field(None, validation_alias="DATABASE_URL", repr=False)
    wait_seconds: float = Field(30, ge=0)
    lease_seconds: float = Field(60, gt=0)
    poll_seconds: float = Field(1, gt=0)
    health_file: Path | None = None
    db_disk: ByteSize | None = Field(None, gt=0)
    log: Literal["text", "json"] = "text"


def read_settings() -> Settings:
    """Read the environment. Raises PypredictError, which names the variable with an invalid value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise PypredictError(
            f"setting {name}: {first['msg']}, got {first['input']!r}; change PYPREDICT_{name.upper()}"
        ) from error
