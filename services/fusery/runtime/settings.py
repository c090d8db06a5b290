"""The place a process runs in: environment variables with the prefix FUSERY_. Nothing else reads os.environ.

What decides a result stands in the run's YAML (`config`); what differs from machine to machine
stands here. Secrets come by environment or by file, never by argument.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """FUSERY_STORE, FUSERY_WORK, FUSERY_BROKER_URL, FUSERY_TRACKING_URI, FUSERY_SOURCE_…, FUSERY_LOG_…."""

    model_config = SettingsConfigDict(env_prefix="FUSERY_", env_ignore_empty=True, frozen=True, extra="ignore")

    store: str | None = None
    """Where artefacts live: a folder or an fsspec URL. Overrides `services.store` of the YAML."""
    work: Path | None = None
    """Folder of this machine for checkpoints, models, logs and MLflow's SQLite. Overrides `services.work`."""
    broker_url: SecretStr | None = None
    """redis://… of the Celery broker. None: `fusery run` starts an embedded Valkey server."""
    broker_password_file: Path | None = None
    """A file with the broker's password, for an address that has none in it. Read at every connection."""
    broker_tls_ca: str | None = None
    """For a broker at rediss://; the authorities that are trusted, as PEM and no file, for certificates are no secret
    and settings are at hand in every pod. None: those of the system."""
    tracking_uri: str | None = None
    """MLflow tracking URI. None: SQLite in the work folder."""
    source_token_file: Path | None = None
    """A file with the bearer token of the source servers, for servers and clients alike."""
    source_tls_cert_file: Path | None = None
    """PEM: the certificate chain of this process; a source server's, or a client's under mutual TLS."""
    source_tls_key_file: Path | None = None
    """PEM: the private key of that certificate, without a passphrase."""
    source_tls_client_ca_file: Path | None = None
    """PEM: for a server; only clients with a certificate of these authorities are let in (mutual TLS)."""
    source_tls_ca_file: Path | None = None
    """PEM: for a client; it speaks TLS with source servers and trusts these authorities."""
    source_tls_server_name: str | None = None
    """For a client: the name in the servers' certificates, where it differs from the address."""
    engine_token_file: Path | None = None
    """A file with the bearer token of the inference servers behind tgi: and vllm: sources."""
    wait_s: float = Field(default=0.0, ge=0)
    """How long a run waits at its start for servers that do not answer yet; where they are started beside it."""
    worker_heartbeat_file: Path | None = None
    """A worker touches it every 15 s while it takes tasks from its broker; for liveness probes."""
    log_level: str = "info"
    log_format: str = "text"
    """`text` for people, `json` for log collectors."""


class TraceSettings(BaseSettings):
    """The variables that say where traces go and which one this process belongs to; three are OpenTelemetry's own."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    fusery_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None
    otel_exporter_otlp_endpoint: str | None = None
    traceparent: str | None = None

    def collector(self) -> tuple[str, str | None]:
        """The variable that names a collector, and its value."""
        names = ("fusery_otlp_endpoint", "otel_exporter_otlp_traces_endpoint", "otel_exporter_otlp_endpoint")
        given = ((name.upper(), getattr(self, name)) for name in names)
        return next(((name, value) for name, value in given if value is not None), ("", None))


class ClusterSettings(BaseSettings):
    """Where the Kubernetes API is: the variables that kubectl and Kubernetes itself have for it."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    kubeconfig: str | None = None
    kubernetes_service_host: str | None = None
    """Set in every pod."""


def settings() -> Settings:
    """The settings of this process, read from the environment at each call."""
    return Settings()


def cluster_settings() -> ClusterSettings:
    """As `settings`, for the Kubernetes API."""
    return ClusterSettings()


def is_in_cluster() -> bool:
    """Whether this process is in a pod of Kubernetes, which no person sees and stops as their own."""
    return cluster_settings().kubernetes_service_host is not None


def child_environment(**variables: str) -> dict[str, str]:
    """The environment for a child process: this one's, plus `variables`."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", **variables}


def set_variables(**variables: str) -> None:
    """Sets variables of this process and its children, for libraries that can be told in no other way."""
    os.environ.update(variables)
