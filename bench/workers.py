"""1 against 2 worker processes on align and fuse: real workers, an embedded broker, captures made before.

    python bench/workers.py [--shards 24] [--repeats 3]      # after `python bench/real_tokenizers.py`

Both workers wait idle and are warm; the shards of a run go to one and then to the other, the next time the other way
round. The median of the ratios of these pairs counts: other load of the machine hurts both of a pair alike. Time: from
the coordinator's start to the last fused shard. Beside each pair stands another of plain processes that do the same
work from a list, without worker, coordinator and broker: what two cores of this machine give at best, for they share
memory and caches. Then each hop alone on the larger worker, by the CPU seconds of its processes; their peak memory
after a small and after a large corpus; and what the messages of all hops take in the broker when as many are in flight
as ever are.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import psutil
import redis
from result_file import write_result

from fusery.hops.fuse import HOPS
from fusery.hops.names import corpus_shard
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store.store import Store
from fusery.hops.worker.app import TASK_NAME, make_app
from fusery.run.coordinator.coordinator import MOST_IN_FLIGHT
from fusery.run.coordinator.execution import HopsJob, coordinate, new_launch
from fusery.run.local import start_broker
from fusery.runtime.processes import Child, Supervisor, fusery_command
from fusery.runtime.settings import child_environment
from hops import prepared

DOCUMENTS = 131
"""Of 2000 bytes: a shard of the default size."""
K = 10


@dataclass
class Worker:
    """A worker and its broker. `numbers` of what it was given so far make its runs' ids."""

    processes: int
    broker_url: str
    broker: Child
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
        return list(psutil.Process(self.child.pid).children(recursive=True))

    def cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.children())

    def cpu_s_beside(self) -> dict[str, float]:
        """Of what hands the work out: this process, which is the coordinator, the broker, the worker's first one."""
        pids = {"coordinator": os.getpid(), "broker": self.broker.pid, "worker's first process": self.child.pid}
        return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in pids.items()}

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
    broker = supervisor.children[-1]
    environment = child_environment(FUSERY_BROKER_URL=broker_url, FUSERY_STORE=store.url)
    command = fusery_command("worker", "--processes", str(processes), "--hops", "align,fuse")
    child = Child(f"worker {processes}", command, environment, folder / f"worker-{processes}.log")
    supervisor.start(child)
    return Worker(processes, broker_url, broker, child)


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


def in_plain_processes(pool: Pool, store: Store, plan: Plan) -> float:
    """Seconds in which the processes of `pool` align and fuse all shards."""
    forget(store)
    start = time.perf_counter()
    shards = zip(repeat(store.url), repeat(plan.model_dump_json()), range(plan.corpus_shards))
    pool.starmap(_align_and_fuse, shards, chunksize=1)
    return time.perf_counter() - start


def _align_and_fuse(store_url: str, plan_json: str, shard: int) -> None:
    store, plan = Store(store_url), Plan.model_validate_json(plan_json)
    fuse = ShardTask(Hop.FUSE, "", shard)
    for task in (*plan.needs(fuse), fuse):
        HOPS[task.hop](store, plan, task)


@dataclass
class Pair:
    """Seconds, and CPU seconds, of one process and of two, once."""

    seconds: dict[int, float]
    cpu_s: dict[int, float]
    plain_seconds: dict[int, float]
    beside: dict[str, float]

    @property
    def ratio(self) -> float:
        return self.seconds[1] / self.seconds[2]

    @property
    def plain_ratio(self) -> float:
        return self.plain_seconds[1] / self.plain_seconds[2]


def one_pair(workers: list[Worker], pools: dict[int, Pool], store: Store, plan: Plan) -> Pair:
    """`workers` in the order in which they are measured."""
    found = Pair({}, {}, {}, {})
    for worker in workers:
        found.plain_seconds[worker.processes] = in_plain_processes(pools[worker.processes], store, plan)
        forget(store)
        before, beside = worker.cpu_s(), worker.cpu_s_beside()
        found.seconds[worker.processes] = worker.carry_out(store, plan)
        found.cpu_s[worker.processes] = worker.cpu_s() - before
        if worker.processes == 2:
            found.beside = {name: spent - beside[name] for name, spent in worker.cpu_s_beside().items()}
    times, plain = found.seconds, found.plain_seconds
    print(
        f"1 process {times[1]:.1f} s, 2 processes {times[2]:.1f} s: {found.ratio:.3f}; "
        f"without worker and broker {plain[1]:.1f} s, {plain[2]:.1f} s: {found.plain_ratio:.3f}",
        flush=True,
    )
    return found


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
    url = start_broker(supervisor, folder / "broker-memory")
    with redis.Redis.from_url(url) as asked:
        app = make_app(url)
        app.send_task(TASK_NAME[Hop.FUSE], args=["run", "launch", "", 0], queue="warm")
        before = int(asked.info("memory")["used_memory"])
        for hop in Hop:
            for shard in range(MOST_IN_FLIGHT):
                arguments = ["my-fusion-0123456789", "0123456789ab", "smollm2", shard]
                app.send_task(TASK_NAME[hop], args=arguments, queue=hop.value)
        after = int(asked.info("memory")["used_memory"])
        app.close()
    messages = MOST_IN_FLIGHT * len(Hop)
    return {"messages": messages, "bytes": after - before, "bytes_per_message": (after - before) / messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        supervisor, store = opened.enter_context(Supervisor()), Store(str(folder / "store"))
        small = with_shards(store, prepared(store, DOCUMENTS, K), max(2, given.shards // 8))
        workers = [start_worker(supervisor, folder, store, processes) for processes in (1, 2)]
        spawn = multiprocessing.get_context("spawn")
        pools = {processes: opened.enter_context(spawn.Pool(processes)) for processes in (1, 2)}
        one_pair(workers, pools, store, small)  # imports, tokenizers, maps
        peak_small = {f"{worker.processes} processes": worker.peak_mb() for worker in workers}
        large = with_shards(store, small, given.shards)
        pairs = []
        for repeated in range(given.repeats):
            pairs.append(one_pair(workers[:: 1 if repeated % 2 else -1], pools, store, large))
        entry = store.find(large.artefact(ShardTask(Hop.FUSE, "", 0)))
        assert entry is not None, "just made"
        tokens = int(entry.facts["tokens"]) * given.shards
        sizes = bytes_per_token(store, large, tokens)
        hops = list(by_hop(workers[-1], store, large, tokens))
        peak_large = {f"{worker.processes} processes": worker.peak_mb() for worker in workers}
        memory = broker_memory(supervisor, folder)
    middle = statistics.median(pair.ratio for pair in pairs)
    one, two = (statistics.median(pair.seconds[processes] for pair in pairs) for processes in (1, 2))
    write_result(
        "workers",
        measure=f"align and fuse of {given.shards} shards, k={K}, two sources: time of 1 process by time of 2",
        value=round(middle, 3),
        unit="times as fast",
        baseline={"what": "1 worker process", "value": round(one, 2), "unit": "s"},
        ratio=round(middle, 3),
        goal="at least 1.8",
        ratios=[round(pair.ratio, 3) for pair in pairs],
        ratios_of_plain_processes=[round(pair.plain_ratio, 3) for pair in pairs],
        median_ratio_of_plain_processes=round(statistics.median(pair.plain_ratio for pair in pairs), 3),
        seconds={processes: [pair.seconds[processes] for pair in pairs] for processes in (1, 2)},
        # On cores of their own, two processes need half of this: what they cost each other shows under any load.
        cpu_s={processes: [pair.cpu_s[processes] for pair in pairs] for processes in (1, 2)},
        cpu_s_beside_2_processes=[pair.beside for pair in pairs],
        tokens=tokens,
        tokens_per_second_2_processes=round(tokens / two),
        shard_bytes=DOCUMENTS * 2000,
        bytes_per_target_token=sizes,
        hops=hops,
        peak_mb_per_process={f"{small.corpus_shards} shards": peak_small, f"{given.shards} shards": peak_large},
        broker_memory=memory,
        load_average_at_the_end=os.getloadavg()[0],
    )


if __name__ == "__main__":
    main()
