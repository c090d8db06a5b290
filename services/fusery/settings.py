"""The place a process runs in: environment variables with the prefix FUSERY_. Nothing else reads os.environ.

What decides a result stands in the run's YAML (`run_config`); what differs from machine to machine
stands here. Secrets come by environment or by file, never by argument.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """FUSERY_STORE, FUSERY_BROKER_URL, FUSERY_TRACKING_URI, FUSERY_LOG_LEVEL, FUSERY_LOG_FORMAT."""

    model_config = SettingsConfigDict(env_prefix="FUSERY_", env_ignore_empty=True, frozen=True, extra="ignore")

    store: str | None = None
    """Where artefacts live: a folder or an fsspec URL. Overrides `services.store` of the YAML."""
    broker_url: SecretStr | None = None
    """redis://… of the Celery broker. None: `fusery run` starts an embedded Valkey server."""
    tracking_uri: str | None = None
    """MLflow tracking URI. None: SQLite in the store."""
    source_token_file: Path | None = None
    """A file with the bearer token of the source servers, for servers and clients alike."""
    log_level: str = "info"
    log_format: str = "text"
    """`text` for people, `json` for log collectors."""


def settings() -> Settings:
    """The settings of this process, read from the environment at each call."""
    return Settings()


def child_environment(**variables: str) -> dict[str, str]:
    """The environment for a child process: this one's, plus `variables`."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", **variables}
