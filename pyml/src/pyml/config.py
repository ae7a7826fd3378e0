"""The settings of the process: read once from the environment by the command line and passed down."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bundle.document import explain
from pyml import PymlError


class Settings(BaseSettings):
    """Where the trainer reads and writes, who it is for Weights & Biases, and which commit it was built from.

    Own settings are PYML_MODELS, PYML_RECORD, PYML_DATA_DIR, PYML_ORIGIN (where datasets are downloaded from, a
    mirror for example) and PYML_MEMORY_MB (prepared images beyond it are streamed from a file); the others keep the
    names that their makers gave them. An empty variable counts as unset, since that is how Compose passes an absent
    one.
    """

    model_config = SettingsConfigDict(env_prefix="PYML_", env_ignore_empty=True, frozen=True, populate_by_name=True)

    models: Path = Path("models")
    record: Path = Path(".local/wandb")
    data_dir: Path = Path("data")
    origin: str = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
    memory_mb: Annotated[int, Field(ge=1)] = 1024
    wandb_project: str = Field("pyml", validation_alias="WANDB_PROJECT")
    wandb_entity: str | None = Field(None, validation_alias="WANDB_ENTITY")
    wandb_group: str | None = Field(None, validation_alias="WANDB_RUN_GROUP")
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
