"""1 against 2 worker processes on align and fuse: real workers, an embedded broker, captures made before.

    python bench/workers.py [--shards 32] [--repeats 3]      # after `python bench/real_tokenizers.py`

Both workers wait idle and are warm; the shards of a run go to one, then to the other, in turns, and the best of each
counts, so that other load of the machine hurts both alike. Time: from the coordinator's start to the last fused shard.
Then each hop alone on the larger worker, by the CPU seconds of its processes; their peak memory after a small and
after a large corpus; and what the messages of all hops take in the broker when as many are in flight as ever are.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import psutil
import redis
from hops import prepared
from result_file import write_result

from fusery.formats.store import Store
from fusery.pipeline.execution import HopsJob, coordinate, new_launch
from fusery.pipeline.local import start_broker
from fusery.pipeline.processes import Child, Supervisor, fusery_command
from fusery.run_sections import ServicesSpec
from fusery.settings import child_environment
from fusery.worker.app import TASK_NAME, make_app
from fusery.worker.plan import Hop, Plan, ShardTask, corpus_shard

DOCUMENTS = 131
"""Of 2000 bytes: a shard of the default size."""
K = 10


@dataclass
class Worker:
    """A worker and its broker. `numbers` of what it was given so far make its runs' ids."""

    processes: int
    broker_url: str
    child: Child
    runs: int = 0

    def carry_out(self, store: Store, plan: Plan, until: Hop = Hop.FUSE) -> float:
        """Seconds until the last shard of the hop `until` is there; what is there already is not made again."""
        self.runs += 1
        named = plan.model_copy(update={"run_id": f"bench-{self.processes}-{self.runs}"})
        start = time.time()
        progress = coordinate(HopsJob(store, named, self.broker_url, {}, until), new_launch())
        left = [hop for hop in progress.hops if hop.done < hop.total and until is Hop.FUSE]
        if progress.dead_letters or left:
            raise SystemExit(f"not all is done: {progress.dead_letters or left}\n{self.child.last_words()}")
        return max(path.stat().st_mtime for path in _folder(store, until).rglob("*.parquet")) - start

    def children(self) -> list[psutil.Process]:
        """The processes that carry tasks out."""
        found = psutil.Process(self.child.pid).children(recursive=True)
        return [process for process in found if "resource_tracker" not in " ".join(process.cmdline())]

    def cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.children())

    def peak_mb(self) -> float:
        """Of the process that took most so far."""
        return max(_high_water_mb(process.pid) for process in self.children())


def _high_water_mb(pid: int) -> float:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, f"/proc/{pid}/status has no VmHWM"
    return int(found.group(1)) / 1024


def _folder(store: Store, hop: Hop) -> Path:
    return store.local_path("aligned" if hop is Hop.ALIGN else "fused")


def start_worker(supervisor: Supervisor, folder: Path, store: Store, processes: int) -> Worker:
    broker_url = start_broker(supervisor, folder / f"broker-{processes}")
    environment = child_environment(FUSERY_BROKER_URL=broker_url, FUSERY_STORE=store.url)
    command = fusery_command("worker", "--processes", str(processes), "--hops", "align,fuse")
    child = Child(f"worker {processes}", command, environment, folder / f"worker-{processes}.log")
    supervisor.start(child)
    return Worker(processes, broker_url, child)


def with_shards(store: Store, plan: Plan, shards: int) -> Plan:
    """The plan with so many shards, all with the content of the first."""
    whole = plan.model_copy(update={"corpus_shards": shards})
    for shard in range(1, shards):
        pairs = [(corpus_shard(plan.corpus_digest, 0), corpus_shard(plan.corpus_digest, shard))]
        for source in plan.sources:
            first, other = (whole.artefact(ShardTask(Hop.CAPTURE, source.name, n)) for n in (0, shard))
            pairs.append((first, other))
        for first, other in pairs:
            if store.find(other) is None:
                entry = store.find(first)
                store.publish(other, store.read(first), None if entry is None else entry.facts)
    return whole


def bytes_per_token(store: Store, plan: Plan, tokens: int) -> dict[str, float]:
    """On disk. Made distributions compress less than real ones: an upper bound."""
    folders = {
        "captured": [plan.folder(Hop.CAPTURE, source.name) for source in plan.sources],
        "aligned": [plan.folder(Hop.ALIGN, source.name) for source in plan.sources],
        "fused": [plan.folder(Hop.FUSE)],
    }
    sizes = {kind: [sum(store.listed(folder).values()) for folder in of_kind] for kind, of_kind in folders.items()}
    return {kind: round(sum(of_kind) / len(of_kind) / tokens, 2) for kind, of_kind in sizes.items()}


def forget(store: Store) -> None:
    """Takes away what the hops made."""
    for hop in (Hop.ALIGN, Hop.FUSE):
        shutil.rmtree(_folder(store, hop), ignore_errors=True)


def by_hop(worker: Worker, store: Store, plan: Plan, tokens: int) -> Iterator[dict[str, Any]]:
    """Tokens per second of a busy core, each hop alone; a token of one source counts once in align."""
    forget(store)
    for hop, amount in ((Hop.ALIGN, tokens * len(plan.sources)), (Hop.FUSE, tokens)):
        before = worker.cpu_s()
        worker.carry_out(store, plan, until=hop)
        spent = worker.cpu_s() - before
        yield {"hop": hop.value, "tokens": amount, "cpu_s": spent, "tokens_per_core_s": amount / spent}


def broker_memory(supervisor: Supervisor, folder: Path) -> dict[str, Any]:
    """Bytes that the messages of all hops take when as many are in flight as may be."""
    in_flight = ServicesSpec().max_in_flight
    url = start_broker(supervisor, folder / "broker-memory")
    with redis.Redis.from_url(url) as asked:
        app = make_app(url)
        app.send_task(TASK_NAME[Hop.FUSE], args=["run", "launch", "", 0], queue="warm")
        before = int(asked.info("memory")["used_memory"])
        for hop in Hop:
            for shard in range(in_flight):
                arguments = ["my-fusion-0123456789", "0123456789ab", "smollm2", shard]
                app.send_task(TASK_NAME[hop], args=arguments, queue=hop.value)
        after = int(asked.info("memory")["used_memory"])
        app.close()
    messages = in_flight * len(Hop)
    return {"messages": messages, "bytes": after - before, "bytes_per_message": (after - before) / messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Supervisor() as supervisor:
        folder, store = Path(name), Store(str(Path(name) / "store"))
        small = with_shards(store, prepared(store, DOCUMENTS, K), max(2, given.shards // 8))
        workers = [start_worker(supervisor, folder, store, processes) for processes in (1, 2)]
        for worker in workers:  # imports, tokenizers, maps
            worker.carry_out(store, small)
            forget(store)
        peak_small = {f"{worker.processes} processes": worker.peak_mb() for worker in workers}
        large = with_shards(store, small, given.shards)
        seconds: dict[int, list[float]] = {worker.processes: [] for worker in workers}
        cpu_s: dict[int, list[float]] = {worker.processes: [] for worker in workers}
        for _ in range(given.repeats):
            for worker in workers:
                before = worker.cpu_s()
                seconds[worker.processes].append(worker.carry_out(store, large))
                cpu_s[worker.processes].append(worker.cpu_s() - before)
                print(f"{worker.processes} processes: {seconds[worker.processes][-1]:.1f} s", flush=True)
                entry = store.find(large.artefact(ShardTask(Hop.FUSE, "", 0)))
                assert entry is not None, "just made"
                tokens = int(entry.facts["tokens"]) * given.shards
                sizes = bytes_per_token(store, large, tokens)
                forget(store)
        hops = list(by_hop(workers[-1], store, large, tokens))
        peak_large = {f"{worker.processes} processes": worker.peak_mb() for worker in workers}
        memory = broker_memory(supervisor, folder)
    best = {processes: min(times) for processes, times in seconds.items()}
    write_result(
        "workers",
        measure=f"align and fuse of {given.shards} shards, k={K}, two sources: time of 1 process by time of 2",
        value=round(best[1] / best[2], 3),
        unit="times as fast",
        baseline={"what": "1 worker process", "value": round(best[1], 2), "unit": "s"},
        ratio=round(best[1] / best[2], 3),
        goal="at least 1.8",
        seconds=seconds,
        # On cores of their own, two processes need half of this: what they cost each other shows under any load.
        cpu_s=cpu_s,
        median_ratio=round(statistics.median(seconds[1]) / statistics.median(seconds[2]), 3),
        tokens=tokens,
        tokens_per_second_2_processes=round(tokens / best[2]),
        shard_bytes=DOCUMENTS * 2000,
        bytes_per_target_token=sizes,
        hops=hops,
        peak_mb_per_process={f"{small.corpus_shards} shards": peak_small, f"{given.shards} shards": peak_large},
        broker_memory=memory,
        load_average_at_the_end=os.getloadavg()[0],
    )


if __name__ == "__main__":
    main()
