"""A launch: one start of a coordinator, as its workers see it. One small note answers what a message leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from fusery.errors import Corrupt
from fusery.formats.store import Store
from fusery.worker.plan import Plan, launch_name, launches_folder


@dataclass(frozen=True, slots=True)
class Launch:
    """`addresses`: of every source by name; they are the launch's own, for ports change from start to start.

    `ended`: how the coordinator ended it in order, such as "done"; None: it works, or was killed.
    """

    id: str
    plan: Plan
    addresses: Mapping[str, str]
    ended: str | None = None

    def write(self, store: Store) -> None:
        content: dict[str, Any] = {
            "ended": self.ended,
            "addresses": dict(self.addresses),
            "plan": self.plan.model_dump(mode="json"),
        }
        store.write_note(launch_name(self.plan.run_id, self.id), content)

    def end(self, store: Store, how: str) -> Launch:
        """Says in the store that nothing of this launch is wanted any more."""
        ended = replace(self, ended=how)
        ended.write(store)
        return ended


def read_launch(store: Store, run_id: str, launch: str) -> Launch | None:
    """The launch as its coordinator last wrote it; None: this store has none of that name.

    Raises:
        Corrupt: the note is damaged.
    """
    name = launch_name(run_id, launch)
    note = store.read_note(name)
    if note is None:
        return None
    try:
        return Launch(launch, Plan.model_validate(note["plan"]), note["addresses"], note["ended"])
    except (KeyError, ValidationError) as error:
        raise Corrupt(f"{name}: not the note of a launch: {error}; start the run again") from error


def launch_ids(store: Store, run_id: str) -> list[str]:
    """The ids of all launches of a run, sorted."""
    return [name.rpartition("/")[2].removesuffix(".json") for name in store.list_notes(launches_folder(run_id))]
