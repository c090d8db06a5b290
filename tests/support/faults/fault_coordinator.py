"""A coordinator as a process: what `fusery run` does for the hops, for a plan and inputs that lie in a folder.

    FUSERY_BROKER_URL=… FUSERY_STORE=… python tests/support/faults/fault_coordinator.py FOLDER [twice]

FOLDER has plan.json, addresses.json and `inputs/`, the corpus shards and tokenizers under their names in the store.
`twice`: every message is put into its queue twice. The last line of the output is JSON: what is finished, what is dead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fusery.hops.names import coordinator_name
from fusery.hops.plan import Plan
from fusery.hops.store.lease import followed_lease
from fusery.hops.store.store import Store
from fusery.run.coordinator.coordinator import PACE
from fusery.run.coordinator.execution import HopsJob, coordinate, new_launch
from fusery.runtime.errors import FuseryError, StoreFull
from fusery.runtime.settings import settings
from fusery.runtime.telemetry import set_up_logging


def publish_inputs(store: Store, inputs: Path) -> None:
    """As `fusery run` does at its start: what is there and whole stays."""
    for path in sorted(inputs.rglob("*")):
        name = path.relative_to(inputs).as_posix()
        if path.is_file() and not store.is_whole(name):
            store.publish(name, path.read_bytes())


def _deliver_twice(witness: Path) -> None:
    """Kombu puts each message into its Redis list two times, with one delivery tag, as a redelivery does."""
    from kombu.transport.redis import Channel

    put = Channel._put

    def put_twice(self: Any, queue: str, message: Any, **named: Any) -> None:
        put(self, queue, message, **named)
        put(self, queue, message, **named)
        with witness.open("a") as file:
            file.write(f"{queue}\n")

    Channel._put = put_twice


def main(folder: Path, *how: str) -> int:
    set_up_logging("coordinator", settings().log_level, settings().log_format)
    store_url, broker_url = settings().store, settings().broker_url
    assert store_url is not None, "the rig sets FUSERY_STORE"
    assert broker_url is not None, "the rig sets FUSERY_BROKER_URL"
    if "twice" in how:
        _deliver_twice(folder / "twice.txt")
    plan = Plan.model_validate_json((folder / "plan.json").read_text())
    addresses = json.loads((folder / "addresses.json").read_text())
    try:
        store = Store(store_url)
        publish_inputs(store, folder / "inputs")
        job = HopsJob(
            store,
            plan,
            broker_url.get_secret_value(),
            addresses,
            make_inputs=lambda: publish_inputs(store, folder / "inputs"),
        )
        launch = new_launch()
        with followed_lease(store, coordinator_name(plan.run_id), {"launch": launch}, PACE.lease_s):
            progress = coordinate(job, launch)
    except FuseryError as error:
        kind = StoreFull if isinstance(error, StoreFull) else type(error)
        print(json.dumps({"finished": False, "dead": [], "error": kind.__name__, "message": str(error)}))
        return error.exit_code
    dead = [
        {"task": letter.task.key, "reason": letter.reason, "documents": list(letter.documents)}
        for letter in progress.dead_letters
    ]
    print(json.dumps({"finished": progress.finished, "dead": dead, "error": None, "message": None}))
    return 3 if dead or not progress.finished else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
