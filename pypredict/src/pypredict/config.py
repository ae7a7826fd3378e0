"""The settings of the predict service, read once in `cli`, from the environment (PYPREDICT_*, DATABASE_URL)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where the models and the database are, and how patient the worker is; times in seconds."""

    model_config = SettingsConfigDict(env_prefix="PYPREDICT_", frozen=True)

    models: Path = Path("models")
    db: Path = Path("db")
    database_url: str | None = Field(None, validation_alias="DATABASE_URL", repr=False)
    wait_seconds: float = 30
    lease_seconds: float = 60
    poll_seconds: float = 1
    health_file: Path | None = None
