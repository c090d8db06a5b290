"""What a coordinator costs at a million planned shards: seconds for its first look and for later ones, and memory.

    python bench/coordinator_scale.py [--tasks 1000000] [--files 100000]

Simulated: a store that answers from memory, with nine tenths of all artefacts there, and workers that finish what was
published between two looks. What is timed is the coordinator's own work and the making of the names that a listing
returns. Real: a folder on this machine with `--files` artefacts, each of data and entry, listed through the store.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from result_file import write_result

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store.store import Entry, Store
from fusery.run.coordinator.attempts import Attempts
from fusery.run.coordinator.coordinator import MOST_IN_FLIGHT, PACE, Coordinator
from fusery.run.coordinator.shard_table import ShardTable

SOURCES = 3
HOPS = 2 * SOURCES + 1
DONE_SHARE = 0.9


def plan(shards: int) -> Plan:
    sources = [
        PlannedSource(name=f"s{i}", model_fingerprint=f"{i}" * 64, tokenizer_fingerprint="f" * 64, vocabulary_size=99)
        for i in range(SOURCES)
    ]
    return Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=shards,
        target_tokenizer_fingerprint="t" * 64,
        sources=tuple(sources),
        capture=CaptureSpec(top_k=4),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )


class SimulatedStore:
    """Answers what a coordinator asks, as a store does in which the first shards of every hop are done."""

    def __init__(self, shards: int) -> None:
        self.url = "simulated"
        self._done = int(shards * DONE_SHARE)
        self._new: dict[str, int] = {}

    def listed(self, folder: str) -> dict[str, int]:
        names = {f"{folder}/shard-{shard:05d}.parquet": 1_000_000 for shard in range(self._done)}
        return names | {name: size for name, size in self._new.items() if name.startswith(folder)}

    def find(self, name: str) -> Entry | None:
        return Entry(name, 1_000_000, "0" * 64) if name in self._new else None

    def make(self, name: str) -> None:
        self._new[name] = 1_000_000

    def list_notes(self, _folder: str) -> list[str]:
        return []


class Broker:
    """Takes every task; `work` makes what was published."""

    def __init__(self) -> None:
        self.published: list[ShardTask] = []

    def publish(self, task: ShardTask, _failures: int) -> bool:
        self.published.append(task)
        return True


def simulate(tasks: int) -> dict[str, Any]:
    shards = -(-tasks // HOPS)
    store, broker, planned = SimulatedStore(shards), Broker(), plan(shards)
    before = peak_mb()
    coordinator = coordinator_of(store, planned, broker)
    first = seconds(coordinator.look)
    later = []
    for _ in range(30):
        for task in broker.published:
            store.make(planned.artefact(task))
        broker.published.clear()
        later.append(seconds(coordinator.look))
    coordinator._next_listing_at = None
    again = seconds(coordinator.look)
    progress = coordinator.progress()
    coordinator.close()
    return {
        "tasks": sum(hop.total for hop in progress.hops),
        "published_a_look": MOST_IN_FLIGHT * len(Hop),
        "first_look_s": round(first, 3),
        "later_look_median_s": round(statistics.median(later), 4),
        "later_look_worst_s": round(max(later), 4),
        "look_with_listing_s": round(again, 3),
        "memory_mb": round(peak_mb() - before, 1),
    }


def real(files: int) -> dict[str, Any]:
    shards = -(-files // HOPS)
    planned, broker = plan(shards), Broker()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        made = seconds(lambda: fill(Path(folder), planned))
        coordinator = coordinator_of(store, planned, broker)
        first = seconds(coordinator.look)
        later = [seconds(coordinator.look) for _ in range(5)]
        coordinator.close()
    return {
        "artefacts": shards * HOPS,
        "made_in_s": round(made, 1),
        "first_look_s": round(first, 2),
        "listing_us_an_artefact": round(first / (shards * HOPS) * 1e6, 2),
        "later_look_median_s": round(statistics.median(later), 4),
    }


def fill(root: Path, planned: Plan) -> None:
    """All artefacts but the last shard of the last hop. Only names and sizes count, so they are written plainly."""
    for key, row in ShardTable(planned).rows.items():
        (root / row.folder).mkdir(parents=True)
        for shard in range(planned.corpus_shards - (key[0] is Hop.FUSE)):
            path = root / row.folder / f"shard-{shard:05d}.parquet"
            path.write_bytes(b"data")
            path.with_name(path.name + ".entry.json").write_bytes(b"{}")


def coordinator_of(store: Any, planned: Plan, broker: Broker) -> Coordinator:
    attempts = Attempts(store, "r", ("launch",), time.monotonic, PACE.silent_s)
    return Coordinator(store, ShardTable(planned), attempts, broker.publish, lambda _: False, MOST_IN_FLIGHT)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    given = parser.parse_args()
    simulated = simulate(given.tasks)
    print(simulated)
    folder = real(given.files)
    print(folder)
    write_result(
        "coordinator_scale",
        measure=f"one look of the coordinator at {simulated['tasks']:,} planned shards, without listing",
        value=simulated["later_look_median_s"],
        unit="s",
        baseline=None,
        ratio=None,
        goal="<= 5 s",
        simulated=simulated,
        real_folder=folder,
    )


if __name__ == "__main__":
    main()
