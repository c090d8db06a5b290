"""How far the hops are: counted by the coordinator, kept in the store as a note, shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fusery.worker.plan import Hop, ShardTask


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that was given up. `documents`: ids of those that its last attempt worked on."""

    task: ShardTask
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
        return {
            "hops": [asdict(hop) for hop in self.hops],
            "dead_letters": [
                {"task": letter.task.key, "reason": letter.reason, "documents": list(letter.documents)}
                for letter in self.dead_letters
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Progress:
        """What `to_json` gave."""
        hops = tuple(_hop(hop) for hop in content["hops"])
        letters = tuple(
            DeadLetter(ShardTask.from_key(letter["task"]), letter["reason"], tuple(letter["documents"]))
            for letter in content["dead_letters"]
        )
        return cls(hops, letters)


def _hop(content: Mapping[str, Any]) -> HopProgress:
    # Notes of earlier versions have no reasons.
    reasons = tuple(FailedAttempts(found["attempts"], found["reason"]) for found in content.get("reasons", ()))
    return HopProgress(**{**content, "hop": Hop(content["hop"]), "reasons": reasons})
