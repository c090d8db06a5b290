"""What `helm test` does: asks every source, the broker, the store and MLflow, and says of each what it found.

Run with the environment of a worker, and SOURCES: lines NAME=ADDRESS. Every check is made, whatever the others found;
the exit code is the number of those that failed.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator

from fusery.hops.store.store import Store
from fusery.hops.worker.broker import check_broker
from fusery.registry.tracking import check_tracking, without_secrets
from fusery.runtime.errors import FuseryError, Unavailable
from fusery.runtime.settings import settings
from fusery.source.client import client_from_settings

_TIMEOUT_S = 20.0


def main() -> int:
    failed = 0
    for name, check in checks():
        try:
            print(f"ok      {name}: {check()}", flush=True)
        except (FuseryError, OSError, ValueError) as error:
            failed += 1
            print(f"failed  {name}: {error}", flush=True)
    return failed


def checks() -> Iterator[tuple[str, Callable[[], str]]]:
    for line in os.environ.get("SOURCES", "").split():
        name, _, address = line.partition("=")
        yield f"source {name}", lambda name=name, address=address: source(name, address)
    yield "broker", broker
    yield "store", store
    if settings().tracking_uri:
        yield "mlflow", mlflow


def source(name: str, address: str) -> str:
    try:
        with client_from_settings(address, timeout_s=_TIMEOUT_S, retry_for_s=_TIMEOUT_S) as client:
            model = client.model()
    except Unavailable as error:
        # A Service shows no server, and has no address, before one is ready.
        where = f"kubectl get pods --selector fusery/source={name}"
        raise Unavailable(
            f"still loading its model, or its pod does not start ({where} says which): {error}"
        ) from error
    return f"{model.name} answers at {address}, vocabulary {model.vocabulary_size}"


def broker() -> str:
    url = settings().broker_url
    if url is None:
        raise ValueError("FUSERY_BROKER_URL is not set")
    check_broker(url.get_secret_value())
    return "answers"


def store() -> str:
    opened = Store(settings().store or "")
    name = f"tests/{uuid.uuid4().hex}.json"
    opened.write_note(name, {"test": name})
    found = opened.read_note(name)
    opened.remove_note(name)
    if found != {"test": name}:
        raise ValueError(f"{opened.url} gave back {found!r}, expected what was written")
    return f"{opened.url} keeps what is written"


def mlflow() -> str:
    uri = settings().tracking_uri or ""
    check_tracking(uri, _TIMEOUT_S)
    return f"{without_secrets(uri)} answers"


if __name__ == "__main__":
    sys.exit(main())
