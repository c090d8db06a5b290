"""Where MLflow's records go, checked before any work. Does not import mlflow: that takes 15 s.

MLflow's client tries again for minutes when a server is not there; a run must not find that out at its end, so
a short request of our own asks first.
"""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from fusery.runtime.errors import AddressError, NoAnswer
from fusery.runtime.settings import is_in_cluster
from fusery.runtime.text import secrets as secrets_in_text

SQLITE = "sqlite:///"
_API, _BODY_BYTES = "/api/2.0/mlflow/experiments/search", 300
_SCHEMES = "http(s)://host:port of an MLflow server, or sqlite:///path/mlflow.db"


def default_tracking_uri(folder: Path) -> str:
    """SQLite in `folder`; give its artifacts `default_artifact_folder` of the same."""
    return f"{SQLITE}{folder.resolve() / 'mlflow.db'}"


def default_artifact_folder(folder: Path) -> Path:
    """The folder beside the SQLite file of `default_tracking_uri` for models, plots and reports."""
    return folder.resolve() / "mlflow-artifacts"


def artifact_folder(tracking_uri: str, work: Path) -> Path | None:
    """Where a new experiment of a run keeps its files: in its work folder beside SQLite. None: a server decides."""
    return default_artifact_folder(work / "mlflow") if tracking_uri.startswith("sqlite:") else None


def check_tracking(uri: str, timeout_s: float = 5.0) -> None:
    """Returns if records can be written to `uri`, as far as that shows in `timeout_s` and without mlflow.

    Raises:
        AddressError: the server does not answer as MLflow does, the folder can't be written, or the scheme is
            none of http, https, sqlite.
    """
    try:
        scheme = urlsplit(uri).scheme
    except ValueError as error:
        raise AddressError(f"tracking_uri: {error}; expected {_SCHEMES}") from None
    if scheme in ("http", "https"):
        _check_server(uri, timeout_s)
    elif uri.startswith(SQLITE):
        _check_folder(Path(uri.removeprefix(SQLITE)).parent, uri)
    else:
        raise AddressError(f"tracking_uri {without_secrets(uri)!r}: expected {_SCHEMES}")


def without_secrets(uri: str) -> str:
    """`uri` without user and password, for messages, logs and tags."""
    return secrets_in_text.without_secrets(uri).replace(f"{secrets_in_text.HIDDEN}@", "")


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _check_server(uri: str, timeout_s: float) -> None:
    shown = without_secrets(uri).rstrip("/")
    request = _request(uri, "/health")
    hint = "start it (mlflow server), or correct the address"
    if is_in_cluster():
        hint = "see to its pod: kubectl get pods --selector app.kubernetes.io/component=mlflow; or correct the address"
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            body = response.read(64)
    except urllib.error.HTTPError as error:
        error.close()
        # A proxy that wants credentials: MLflow's client has its own ways to give them.
        if error.code in (401, 403):
            return
        raise AddressError(f"{shown}: /health answered {error.code}, expected 200: no MLflow server? {hint}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NoAnswer(f"{shown}: no MLflow server answers within {timeout_s:g} s ({reason}); {hint}") from None
    if body.strip() != b"OK":
        raise AddressError(f"{shown}: /health answered {body[:20]!r}, expected b'OK': no MLflow server? {hint}")
    _check_api(uri, timeout_s)


def _check_api(uri: str, timeout_s: float) -> None:
    """Returns unless the API refuses what /health lets through: a host name, a database that is away.

    Raises:
        AddressError: it does.
    """
    shown = without_secrets(uri).rstrip("/")
    try:
        with urllib.request.urlopen(_request(uri, f"{_API}?max_results=1"), timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(_BODY_BYTES).decode(errors="replace")
        if error.code == 403 and "host header" in body.lower():
            raise AddressError(
                f"{shown}: MLflow is well and refuses this host name ({body.strip()}); add it to the server's "
                "--allowed-hosts (in the chart mlflow.allowedHosts), or name the server as it allows"
            ) from None
        if error.code >= 500:
            said = body.strip()[:100]
            raise AddressError(f"{shown}: MLflow answers {error.code} ({said}); see to its database and log") from None
        # A proxy that wants credentials, as above; a server that lists nothing for this user.
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NoAnswer(f"{shown}: MLflow is well and its API does not answer ({reason}); see to its database") from None


def _request(uri: str, path: str) -> urllib.request.Request:
    parts = urlsplit(uri)
    place = urlunsplit(parts._replace(netloc=_host(parts), path=parts.path.rstrip("/"), query="", fragment=""))
    request = urllib.request.Request(place + path)
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(secret).decode())
    return request


def _check_folder(folder: Path, uri: str) -> None:
    """The folder, or the nearest that exists above it, can be written."""
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "is not writable" if nearest.is_dir() else "is not a folder"
        raise AddressError(f"tracking_uri {uri}: {nearest} {what}; choose another folder or change its permissions")
