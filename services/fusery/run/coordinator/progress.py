"""How far the hops are: counted by the coordinator, kept in the store as a note, shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from fusery.hops.plan import Hop, ShardTask

_Task = Annotated[
    ShardTask,
    PlainSerializer(lambda task: task.key, return_type=str),
    BeforeValidator(lambda found: ShardTask.from_key(found) if isinstance(found, str) else found),
]
"""In JSON by its key, such as "capture-big-00003"."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that was given up. `documents`: ids of those that its last attempt worked on."""

    task: _Task
    reason: str
    documents: tuple[str, ...] = ()

    def __str__(self) -> str:
        few = ", ".join(self.documents[:5]) + (f" and {len(self.documents) - 5} more" * (len(self.documents) > 5))
        return f"{self.task.key}: {self.reason}" + (f" (at work on: {few})" if few else "")


@dataclass(frozen=True, slots=True)
class FailedAttempts:
    """How many attempts failed for one reason."""

    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class HopProgress:
    """Where one hop of one source stands, in shards. `failed`: attempts in vain. `bytes`: of the finished shards.

    `reasons`: of the failed attempts, the latest first, at most three. `waits_for`: why nothing is asked of the source
    now; '': it is not waited for. `untried`: the shards that were not tried because the first ones failed with errors
    that no retry helps, such as '3-63'; '': none.
    """

    hop: Hop
    source: str
    done: int
    total: int
    running: int = 0
    failed: int = 0
    dead: int = 0
    bytes: int = 0
    reasons: tuple[FailedAttempts, ...] = ()
    waits_for: str = ""
    untried: str = ""

    @property
    def title(self) -> str:
        return f"{self.hop.value} {self.source}".strip()

    @property
    def note(self) -> str:
        """What is worth seeing beside the numbers, for people."""
        failed = [f"{found.attempts} failed: {found.reason}" for found in self.reasons]
        waits = [f"waits: {self.waits_for}"] * bool(self.waits_for)
        return "; ".join(waits + [f"stopped, not tried: {self.untried}"] * bool(self.untried) + failed)


@dataclass(frozen=True, slots=True)
class Progress:
    hops: tuple[HopProgress, ...]
    dead_letters: tuple[DeadLetter, ...]

    @property
    def finished(self) -> bool:
        """Every task is done."""
        return all(hop.done == hop.total for hop in self.hops)

    @property
    def what_failed(self) -> str:
        """What was given up and what was not even tried, for people, in lines."""
        letters = self.dead_letters
        more = [f"  and {len(letters) - 10} more"] * (len(letters) > 10)
        stopped = [
            f"{hop.title} stopped early: shard after shard failed with an error that no retry helps; not tried: shards "
            f"{hop.untried}"
            for hop in self.hops
            if hop.untried
        ]
        head = f"{len(letters)} shards failed for good; everything that does not need them is done and kept:"
        return "\n".join([head, *(f"  {letter}" for letter in letters[:10]), *more, *stopped])

    def to_json(self) -> dict[str, Any]:
        """JSON values: hops, dead_letters."""
        found: dict[str, Any] = _FORM.dump_python(self, mode="json")
        return found

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Progress:
        """What `to_json` gave, of this version or an earlier one."""
        return _FORM.validate_python(content)


_FORM = TypeAdapter(Progress)
