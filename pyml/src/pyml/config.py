"""The settings of the process: read once from the environment by the command line and passed down."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bundle.record import explain
from pyml import PymlError


class Settings(BaseSettings):
    """Where the trainer writes, who it is for Weights & Biases, and which commit it was built from.

    Own settings are PYML_MODELS and PYML_RECORD; the others keep the names that their makers gave them. An empty
    variable counts as unset, since that is how Compose passes an absent one.
    """

    model_config = SettingsConfigDict(env_prefix="PYML_", env_ignore_empty=True, frozen=True, populate_by_name=True)

    models: Path = Path("models")
    record: Path = Path(".local/wandb")
    wandb_project: str = Field("pyml", validation_alias="WANDB_PROJECT")
    wandb_entity: str | None = Field(None, validation_alias="WANDB_ENTITY")
    wandb_mode: Literal["online", "offline", "disabled"] = Field("online", validation_alias="WANDB_MODE")
    wandb_api_key: SecretStr | None = Field(None, validation_alias="WANDB_API_KEY")
    git_commit: str | None = Field(None, validation_alias="GIT_COMMIT")
    git_dirty: bool | None = Field(None, validation_alias="GIT_DIRTY")


def read_settings() -> Settings:
    """Read the environment. Raises PymlError naming the variable that has no meaning."""
    try:
        return Settings()
    except ValidationError as error:
        raise PymlError(f"the environment is not usable: {explain(error)}") from error
