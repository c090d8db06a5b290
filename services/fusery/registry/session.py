"""A session with MLflow: imported late, quiet, bounded in its retries, and its errors in our own tree.

MLflow has its settings in the process's environment and its tracking URI in a global; both are set here and
nowhere else. What it prints and logs (table migrations, licence hints) goes to our log at level debug.
"""

from __future__ import annotations

import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.registry.redaction import without_secrets
from fusery.registry.tracking import SQLITE
from fusery.runtime.errors import AddressError, FuseryError, InvalidInput, Unavailable

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# MLflow's own default of 7 is four minutes for each request to a server that has gone.
_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}


@contextmanager
def session(tracking_uri: str, on_failure: str) -> Iterator[MlflowClient]:
    """A client of `tracking_uri`, which is MLflow's global one meanwhile; `on_failure` ends every error message.

    Raises:
        Unavailable: the store, the server or the place of the artifacts fails or is gone; the same call may succeed
            later.
        AddressError: it refuses our credentials.
        InvalidInput: it refuses what it was given.
    """
    os.environ.update(_ENVIRONMENT)
    for name, value in _RETRIES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        from mlflow.exceptions import MlflowException

        before = mlflow.get_tracking_uri()
        try:
            with _quiet():
                mlflow.set_tracking_uri(tracking_uri)
                with _alone(tracking_uri):
                    client = mlflow.MlflowClient(tracking_uri)
                yield client
        except MlflowException as error:
            raise _translated(error, on_failure) from error
        except FuseryError:
            raise
        except Exception as error:
            # Clients of databases and buckets have errors of their own; one that is missing is an ImportError.
            text = without_secrets(f"{type(error).__name__}: {error}")
            raise Unavailable(f"MLflow: {text}; {on_failure}") from error
        finally:
            mlflow.set_tracking_uri(before)


@contextmanager
def _alone(tracking_uri: str) -> Iterator[None]:
    """One process at a time makes or migrates the tables of an SQLite file: two at once leave it half made."""
    if not tracking_uri.startswith(SQLITE):
        yield
        return
    path = Path(tracking_uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        # Given back by the kernel however the process ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _translated(error: MlflowException, on_failure: str) -> FuseryError:
    status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    message = f"MLflow: {without_secrets(str(error))}; {on_failure}"
    if status in (401, 403):
        return AddressError(message)
    # 408 and 429 say "not now"; other codes of 400 and more, "not this".
    if 400 <= status < 500 and status not in (408, 429):
        return InvalidInput(message)
    return Unavailable(message)


@contextmanager
def _quiet() -> Iterator[None]:
    from mlflow.utils import logging_utils

    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        # Its own handler goes too: parts of MLflow enable its stream again.
        logger.handlers, logger.propagate = [_ToOurLog()], False
    logging_utils.disable_logging()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging_utils.enable_logging()  # type: ignore[no-untyped-call]
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


class _ToOurLog(logging.Handler):
    """Passes records of MLflow on, whatever their level, as debug."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("%s: %s", record.name, record.getMessage())
