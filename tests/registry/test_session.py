"""A session with MLflow: what it says goes to our log, and its errors into our own tree."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from fusery.registry.session import session
from fusery.registry.tracking import default_tracking_uri
from fusery.runtime.errors import AddressError, InvalidInput, Unavailable

# MLflow and what it imports warn about each other's future.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_what_mlflow_logs_goes_to_our_log_and_it_neither_phones_nor_unpickles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow.utils.logging_utils import enable_logging, eprint

    with session(default_tracking_uri(tmp_path), "what to do"):
        pass  # Makes the tables, and says so.
    with caplog.at_level(logging.DEBUG, "fusery.registry"), session(default_tracking_uri(tmp_path), "what to do"):
        logging.getLogger("mlflow.store.db.utils").warning("Updating database tables")
        eprint("Successfully registered model")  # type: ignore[no-untyped-call]
        enable_logging()  # type: ignore[no-untyped-call]
        logging.getLogger("mlflow.store").warning("Waiting")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "mlflow.store.db.utils: Updating database tables"),
        ("DEBUG", "mlflow.store: Waiting"),
    ]
    assert capfd.readouterr() == ("", "")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("UNAUTHENTICATED", AddressError),
        ("PERMISSION_DENIED", AddressError),
        ("INVALID_PARAMETER_VALUE", InvalidInput),
        ("INTERNAL_ERROR", Unavailable),
        ("REQUEST_LIMIT_EXCEEDED", Unavailable),
    ],
)
def test_refusals_failures_and_wrong_credentials_are_told_apart(
    code: str, expected: type[Exception], tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    with pytest.raises(expected, match="no; what to do"), session(default_tracking_uri(tmp_path), "what to do"):
        raise MlflowException("no", error_code=getattr(databricks_pb2, code))


@pytest.mark.parametrize("error", [ConnectionError("gone"), ModuleNotFoundError("gone"), ValueError("gone")])
def test_whatever_a_store_of_artifacts_raises_says_what_to_do(error: Exception, tmp_path: Path) -> None:
    message = f"^MLflow: {type(error).__name__}: gone; what to do$"
    with pytest.raises(Unavailable, match=message), session(default_tracking_uri(tmp_path), "what to do"):
        raise error


def test_an_error_of_our_own_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^ours$"), session(default_tracking_uri(tmp_path), "what to do"):
        raise InvalidInput("ours")
