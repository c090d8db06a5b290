"""How far the hops are: counted by the coordinator, kept in the store as a note, shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusery.worker.plan import Hop, ShardTask


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that was given up. `documents`: ids of those that its last attempt worked on."""

    task: ShardTask
    reason: str
    documents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HopProgress:
    """Where one hop of one source stands, in shards. `failed`: attempts in vain. `bytes`: of the finished shards."""

    hop: Hop
    source: str
    done: int
    total: int
    running: int = 0
    failed: int = 0
    dead: int = 0
    bytes: int = 0

    @property
    def title(self) -> str:
        return f"{self.hop.value} {self.source}".strip()


@dataclass(frozen=True, slots=True)
class Progress:
    hops: tuple[HopProgress, ...]
    dead_letters: tuple[DeadLetter, ...]

    @property
    def finished(self) -> bool:
        """Every task is done."""
        return all(hop.done == hop.total for hop in self.hops)

    def to_json(self) -> dict[str, Any]:
        """JSON values: hops, dead_letters."""
        counts = ("done", "total", "running", "failed", "dead", "bytes")
        return {
            "hops": [
                {"hop": hop.hop.value, "source": hop.source, **{name: getattr(hop, name) for name in counts}}
                for hop in self.hops
            ],
            "dead_letters": [
                {"task": letter.task.key, "reason": letter.reason, "documents": list(letter.documents)}
                for letter in self.dead_letters
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Progress:
        """What `to_json` gave."""
        hops = tuple(HopProgress(**{**hop, "hop": Hop(hop["hop"])}) for hop in content["hops"])
        letters = tuple(
            DeadLetter(ShardTask.from_key(letter["task"]), letter["reason"], tuple(letter["documents"]))
            for letter in content["dead_letters"]
        )
        return cls(hops, letters)
