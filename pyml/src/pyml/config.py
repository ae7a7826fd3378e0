"""The settings of the process. The command line reads them once from the environment and passes them on."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bundle.document import explain
from pyml import PymlError


class Settings(BaseSettings):
    """The directories of the trainer, its account at Weights & Biases, and the commit that it was built from.

    Our own variables are PYML_MODELS, PYML_RECORD (records of W&B runs), PYML_DATA_DIR, PYML_ORIGIN (the URL from which
    datasets are downloaded), PYML_MEMORY_MB (prepared images that need more memory are read from a file),
    PYML_TRACK_SAMPLES (some samples of the test set go into the record of the run) and PYML_LOG (the form of the log:
    text or json). The other variables have the names that W&B and the image's build give them. An empty variable counts
    as unset, because Compose passes an unset variable as an empty one.
    """

    model_config = SettingsConfigDict(env_prefix="PYML_", env_ignore_empty=True, frozen=True, populate_by_name=True)

    models: Path = Path("models")
    record: Path = Path(".local/wandb")
    data_dir: Path = Path("data")
    origin: str = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
    memory_mb: Annotated[int, Field(ge=1)] = 1024
    track_samples: bool = False
    log: Literal["text", "json"] = "text"
    wandb_project: str = Field("pyml", validation_alias="WANDB_PROJECT")
    wandb_entity: str | None = Field(None, validation_alias="WANDB_ENTITY")
    wandb_group: str | None = Field(None, validation_alias="WANDB_RUN_GROUP")
    wandb_mode: Literal["online", "offline", "disabled"] = Field("online", validation_alias="WANDB_MODE")
    wandb_api_key: SecretStr | None = Field(None, validation_alias="WANDB_API_KEY")
    git_commit: str | None = Field(None, validation_alias="GIT_COMMIT")
    git_dirty: bool | None = Field(None, validation_alias="GIT_DIRTY")


def read_settings() -> Settings:
    """Read the environment. Raises PymlError that names the invalid variable."""
    try:
        return Settings()
    except ValidationError as error:
        raise PymlError(f"the environment is not valid: {explain(error)}") from error
