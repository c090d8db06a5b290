"""Floods a source server with ten times what its queue holds, again and again: how fast is the excess refused?

The server is a process of its own with a pico model; every flood is sent over one connection by a second process, at
once and, for comparison, evenly at 400 calls a second while the queue is full. A refusal's latency is what its caller
sees; at once, most of it is the time that Python's gRPC needs for the calls before it, at the caller and at the server.
Accepted requests must get the bytes that they get alone, and the server's memory must not grow.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
from fuzz_source import SERVICE, TEXTS, resident_bytes, served
from result_file import write_result

from fusery.source.pb import distributions_pb2 as pb

CAPACITY = 32
"""Requests that wait; the default of serve-source."""


@dataclass(slots=True)
class Flood:
    """What the callers saw; latencies in milliseconds."""

    refused_ms: list[float] = field(default_factory=list)
    accepted_ms: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0

    def refusals(self) -> dict[str, float]:
        return {"p50_ms": percentile(self.refused_ms, 0.5), "p99_ms": percentile(self.refused_ms, 0.99)}


def request_bytes() -> bytes:
    document = pb.Document(id="d", text=" ".join(TEXTS).encode())
    return pb.ComputeDistributionsRequest(
        documents=[document], top_k=64, log_probs=pb.LOG_PROBS_FLOAT32
    ).SerializeToString()


def compute(channel: Any) -> Any:
    # One document, so one message comes back, and a future can hold it.
    return channel.unary_unary(SERVICE + "ComputeDistributions", None, None)


def flood(channel: Any, content: bytes, expected: bytes, into: Flood, pause_s: float = 0.0) -> None:
    """Sends ten times the capacity, with a pause after each call, and waits until the last one has ended."""
    calls = 10 * CAPACITY
    method, ended, lock = compute(channel), threading.Semaphore(0), threading.Lock()

    def done(call: Any, began: float) -> None:
        took_ms = (time.perf_counter() - began) * 1000
        code = call.code()
        with lock:
            into.codes[code.name] += 1
            if code is grpc.StatusCode.OK:
                into.accepted_ms.append(took_ms)
                into.wrong += call.result() != expected
            else:
                into.refused_ms.append(took_ms)
        ended.release()

    for _ in range(calls):
        began = time.perf_counter()
        method.future(content, timeout=120).add_done_callback(lambda call, began=began: done(call, began))
        if pause_s:
            time.sleep(pause_s)
    for _ in range(calls):
        ended.acquire()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floods", type=int, default=40)
    given = parser.parse_args()
    content, seen, even, memory = request_bytes(), Flood(), Flood(), []
    with (
        served("--waiting-requests", str(CAPACITY)) as (process, address, _),
        grpc.insecure_channel(address) as channel,
    ):
        expected = compute(channel)(content, timeout=60)
        for _ in range(5):
            flood(channel, content, expected, Flood())
        for _ in range(given.floods):
            flood(channel, content, expected, seen)
            memory.append(resident_bytes(process.pid))
        for _ in range(10):
            flood(channel, content, expected, even, pause_s=1 / 400)
    growth = memory[-1] / memory[0] - 1
    print(f"at once: {seen.refusals()}, {dict(seen.codes)}; evenly: {even.refusals()}, {dict(even.codes)}")
    print(f"memory {growth:+.2%}; wrong answers: {seen.wrong + even.wrong}")
    write_result(
        "overload_source",
        measure="latency of a refusal at ten times the queue's capacity, p99, as the caller sees it",
        value=seen.refusals()["p99_ms"],
        unit="ms",
        baseline=None,
        ratio=None,
        goal="p99 under 50 ms; accepted requests right; memory flat",
        at_once=seen.refusals(),
        evenly_400_a_second=even.refusals() | {"codes": dict(even.codes)},
        floods=given.floods,
        calls_a_flood=10 * CAPACITY,
        waiting_requests=CAPACITY,
        codes=dict(seen.codes),
        accepted_wrong=seen.wrong + even.wrong,
        load_average=round(os.getloadavg()[0], 1),
        accepted_p99_ms=percentile(seen.accepted_ms, 0.99),
        memory_growth=round(growth, 4),
        memory_mib={"first": round(memory[0] / 2**20, 1), "last": round(memory[-1] / 2**20, 1)},
    )
    sys.exit(1 if seen.wrong + even.wrong or set(seen.codes) - {"OK", "RESOURCE_EXHAUSTED"} else 0)


if __name__ == "__main__":
    main()
