"""Stands for broker and workers before a coordinator: does what it is told, loses or fails the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops.names import attempts_folder, started_folder, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store.store import Store
from fusery.run.coordinator.attempts import Attempts
from fusery.run.coordinator.coordinator import Coordinator, Pace
from fusery.run.coordinator.shard_table import ShardTable


def plan(sources: int = 2, shards: int = 3) -> Plan:
    return Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=shards,
        target_tokenizer_fingerprint="t" * 64,
        sources=tuple(
            PlannedSource(
                name=f"s{i}", model_fingerprint=f"{i}" * 64, tokenizer_fingerprint="f" * 64, vocabulary_size=99
            )
            for i in range(sources)
        ),
        capture=CaptureSpec(top_k=4),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )


@dataclass
class Workers:
    folder: Path
    plan: Plan = field(default_factory=plan)
    now: float = 100.0
    queue: list[ShardTask] = field(default_factory=list)
    """Messages that no worker has taken."""
    is_away: bool = False
    """The broker."""
    notes: int = 0
    inputs_made: int = 0

    def __post_init__(self) -> None:
        self.store = Store(str(self.folder))
        self.make_inputs()

    def coordinator(
        self,
        launches: tuple[str, ...] = ("launch",),
        max_in_flight: int = 16,
        until: Hop = Hop.FUSE,
        pace: Pace | None = None,
    ) -> Coordinator:
        pace = pace or Pace()
        return Coordinator(
            self.store,
            ShardTable(self.plan, until),
            Attempts(self.store, "r", launches, lambda: self.now, pace.silent_s),
            self.take,
            lambda hop: None if self.is_away else not [task for task in self.queue if task.hop is hop],
            max_in_flight,
            pace,
            self.make_inputs,
            clock=lambda: self.now,
        )

    def make_inputs(self) -> None:
        self.inputs_made += 1
        for shard in range(self.plan.corpus_shards):
            self.store.publish(self.plan.corpus_shard(shard), b"text")
        for fingerprint in ("t" * 64, "f" * 64):
            self.store.publish(tokenizer_name(fingerprint), b"tokens")

    def take(self, task: ShardTask, failures: int) -> bool:
        if not self.is_away:
            self.queue.append(task)
        return not self.is_away

    def make(self, task: ShardTask) -> None:
        for need in self.plan.needs(task):
            assert self.store.find(self.plan.artefact(need)), f"{task.key} was published before {need.key} was there"
        self.store.publish(self.plan.artefact(task), task.key.encode(), {"tokens": 10})

    def work(self) -> None:
        """Does all that waits."""
        while self.queue:
            self.make(self.queue.pop(0))

    def fail(self, task: ShardTask, error: str = "E", retryable: bool = True, launch: str = "launch") -> None:
        self.notes += 1
        note = {
            "task": task.key,
            "reason": f"{task.key} broke",
            "error": error,
            "retryable": retryable,
            "documents": [f"document {self.notes}"],
        }
        self.store.write_note(f"{attempts_folder('r', launch)}/{task.key}.{self.notes}.json", note)

    def start(self, task: ShardTask, launch: str = "launch") -> str:
        """The name of a started note that was just written."""
        self.notes += 1
        name = f"{started_folder('r', launch)}/{task.key}.{self.notes}.json"
        self.beat(name, 1)
        return name

    def beat(self, name: str, number: int) -> None:
        key = name.rpartition("/")[2].partition(".")[0]
        note = {"task": key, "worker": "host:1", "beat": number, "documents": [f"document of {key}"]}
        self.store.write_note(name, note)
