"""Sends mutated requests to a source server in another process and looks at every reply and at the server's memory.

Half of them are valid messages with changed bytes, half are messages with changed fields. No crash, no hang, no
defect (INTERNAL), no path and no stack trace in a reply, and every so often the same valid request, which must get
the same bytes. `make fuzz`; a longer one: `python bench/fuzz_source.py --requests 1000000 --seed 7`.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fusery.source.pb import distributions_pb2 as pb

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

SERVICE = "/fusery.distributions.v1.DistributionsService/"
DEADLINE_S = 60.0
AT_A_TIME = 16
ALLOWED = {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
HIDDEN = ("Traceback", 'File "', ".py", "site-packages", "pico_models-", str(ROOT), sys.prefix, tempfile.gettempdir())
"""What no reply may hold. The requests hold none of it."""

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def fuse(sources, target):\n\treturn target",
    "naïve café — Grüße aus Köln, 東京 and 😀",
    "0123456789 " * 4,
)


@dataclass(frozen=True, slots=True)
class Request:
    """A method's name, and the bytes that are sent as its request."""

    method: str
    content: bytes


@dataclass(slots=True)
class Outcome:
    """What came back: calls by status, and what should not have been."""

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, request: Request, error: Any) -> None:
        code = "OK" if error is None else error.code().name
        self.codes[code] += 1
        if code not in ALLOWED:
            self._fault(request, f"{code}: {error.details()}")
        if error is not None:
            reply = f"{error.details()} {error.trailing_metadata()}"
            for text in HIDDEN:
                if text in reply:
                    self._fault(request, f"{text!r} in the reply {reply[:300]!r}")

    def _fault(self, request: Request, what: str) -> None:
        self.faults.append(f"{request.method} {request.content[:200]!r}: {what}")


def valid_request(chosen: random.Random, fingerprint: str = "") -> pb.ComputeDistributionsRequest:
    documents = [
        pb.Document(id=f"d{i}", text=chosen.choice(TEXTS)[: chosen.randint(1, 60)].encode())
        for i in range(chosen.randint(1, 4))
    ]
    expected = chosen.choice(("", fingerprint))
    log_probs = chosen.choice((pb.LOG_PROBS_FLOAT16, pb.LOG_PROBS_FLOAT32))
    return pb.ComputeDistributionsRequest(
        documents=documents, top_k=chosen.randint(1, 16), log_probs=log_probs, expected_fingerprint=expected
    )


def changed_bytes(chosen: random.Random, content: bytes) -> bytes:
    """One to four changes: bits, bytes, cuts, repeats, inserted varints and lengths."""
    data = bytearray(content)
    for _ in range(chosen.randint(1, 4)):
        at = chosen.randrange(len(data) + 1)
        end = min(len(data), at + chosen.randint(1, 16))
        match chosen.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chosen.randrange(8)
            case 1 if at < len(data):
                data[at] = chosen.randrange(256)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * chosen.randint(1, 4)
            case 4:
                data[at:at] = chosen.randbytes(chosen.randint(1, 12))
            case 5:
                data[at:at] = b"\xff" * chosen.randint(1, 10) + b"\x01"
            case 6:
                del data[at:]
    return bytes(data)


STRANGE_IDS = ("", "d0", "d1", "\x00", "a'b\"c\n", "東" * 50, "x" * 3000, "{}%s%n", "‮abc", "document 'd1': ")
STRANGE_TEXTS = (
    *(b"", b"\x00", b"\xff\xfe", b"caf\xe9", "😀".encode()[:3], b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbfbom"),
    *(b" ", b"\n" * 20, "é".encode(), "e\u0301".encode(), "‮".encode(), "\ufffd".encode(), b"<s>", b"</s><unk>"),
    *(b"<0x0A>", "▁▁▁".encode(), b"a" * 240, b"a" * 2_000, "東".encode() * 200),
)
STRANGE_NUMBERS = (
    0,
    1,
    16,
    17,
    255,
    256,
    559,
    560,
    567,
    568,
    4096,
    4097,
    65_536,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
STRANGE_ENUMS = (-(1 << 31), -1, 0, 1, 2, 3, 255, (1 << 31) - 1)


def changed_fields(chosen: random.Random, request: pb.ComputeDistributionsRequest, fingerprint: str) -> bytes:
    """One to three fields with values from the edges."""
    for _ in range(chosen.randint(1, 3)):
        document = chosen.choice(request.documents) if request.documents else request.documents.add()
        match chosen.randrange(8):
            case 0:
                document.id = chosen.choice(STRANGE_IDS)
            case 1 | 2:
                document.text = chosen.choice(STRANGE_TEXTS)
            case 3:
                document.text = chosen.randbytes(chosen.randint(1, 40))
            case 4:
                request.top_k = chosen.choice(STRANGE_NUMBERS)
            case 5:
                # A signed number, as an enum of a later version, or a broken client, may send.
                request.log_probs = chosen.choice(STRANGE_ENUMS)  # type: ignore[assignment]
            case 6:
                request.expected_fingerprint = chosen.choice(("", "0", "f" * 64, fingerprint[:-1], fingerprint * 50))
            case 7:
                _many_or_none(chosen, request)
    return request.SerializeToString()


def _many_or_none(chosen: random.Random, request: pb.ComputeDistributionsRequest) -> None:
    count = chosen.choice((0, 8, 1025))
    del request.documents[:]
    request.documents.extend(pb.Document(id=str(i), text=b"a") for i in range(count))


def mutated(seed: int, fingerprint: str) -> Iterator[Request]:
    """Endless requests; the same seed gives the same ones."""
    chosen = random.Random(seed)
    while True:
        method = chosen.choices(("ComputeDistributions", "GetModel", "GetTokenizer"), (18, 1, 1))[0]
        request = valid_request(chosen, fingerprint)
        if method != "ComputeDistributions" or chosen.random() < 0.5:
            yield Request(method, changed_bytes(chosen, request.SerializeToString()))
        else:
            yield Request(method, changed_fields(chosen, request, fingerprint))


def send(channel: Any, requests: list[Request], outcome: Outcome) -> None:
    """Sends all at once and waits for each."""
    calls = [
        (request, channel.unary_stream(SERVICE + request.method, None, None)(request.content, timeout=DEADLINE_S))
        for request in requests
    ]
    for request, call in calls:
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            outcome.add(request, error)
        else:
            outcome.add(request, None)


def answer_bytes(channel: Any, request: pb.ComputeDistributionsRequest) -> list[bytes]:
    call = channel.unary_stream(SERVICE + "ComputeDistributions", None, None)
    return list(call(request.SerializeToString(), timeout=DEADLINE_S))


def fuzz(
    address: str, requests: int, seed: int, *, seconds: float = 3600.0, looked: Callable[[int], None] = lambda _: None
) -> Outcome:
    """Sends `requests` mutated requests, or as many as fit into `seconds`; `looked` is told the number so far."""
    outcome, until = Outcome(), time.monotonic() + seconds
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        content = channel.unary_unary(SERVICE + "GetModel", None, None)(b"", timeout=DEADLINE_S)
        fingerprint = pb.GetModelResponse.FromString(content).fingerprint
        canary = valid_request(random.Random(0))
        expected = answer_bytes(channel, canary)
        made, sent = mutated(seed, fingerprint), 0
        while sent < requests and time.monotonic() < until:
            batch = [next(made) for _ in range(min(AT_A_TIME, requests - sent))]
            send(channel, batch, outcome)
            sent += len(batch)
            if sent % (AT_A_TIME * 64) < AT_A_TIME or sent == requests:
                if answer_bytes(channel, canary) != expected:
                    outcome.faults.append(f"after {sent} requests a valid one got other bytes")
                looked(sent)
    return outcome


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A process that serves a pico model; it, its address, and its log."""
    from support.models.pico_models import build_model

    with tempfile.TemporaryDirectory(prefix="pico_models-") as folder:
        model, ready, log = build_model(Path(folder) / "model", "llama"), Path(folder) / "ready", Path(folder) / "log"
        command = [sys.executable, "-m", "fusery", "serve-source", str(model), "--port", "0", "--threads", "1"]
        with log.open("wb") as output:
            process = subprocess.Popen([*command, "--ready-file", str(ready), *options], stderr=output)
            try:
                while not ready.exists():
                    if process.poll() is not None:
                        raise SystemExit(f"the server ended with {process.returncode}: {log.read_text()[-2000:]}")
                    time.sleep(0.1)
                yield process, ready.read_text(encoding="utf-8"), log
            finally:
                process.terminate()
                process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="ends the run in any case")
    given = parser.parse_args()
    from result_file import write_result

    memory: list[tuple[int, int]] = []
    with served() as (process, address, log):

        def look(sent: int) -> None:
            memory.append((sent, resident_bytes(process.pid)))
            print(f"{sent} requests, {memory[-1][1] / 2**20:.1f} MiB", file=sys.stderr)

        began = time.monotonic()
        outcome = fuzz(address, given.requests, given.seed, seconds=given.seconds, looked=look)
        seconds = time.monotonic() - began
        alive = process.poll() is None
        tracebacks = log.read_text(encoding="utf-8", errors="replace").count("Traceback")
    sent = sum(outcome.codes.values())
    warm = next(size for count, size in memory if count >= sent / 5)
    drift = memory[-1][1] / warm - 1
    outcome.faults += [] if alive else ["the server has ended"]
    outcome.faults += [f"{tracebacks} tracebacks in the server's log"] if tracebacks else []
    outcome.faults += [f"memory drift {drift:.1%}"] if drift >= 0.05 else []
    for fault in outcome.faults[:20]:
        print(fault)
    print(f"{sent} requests in {seconds:.0f} s, {len(outcome.faults)} faults, memory drift {drift:+.2%}")
    print(", ".join(f"{code} {count}" for code, count in outcome.codes.most_common()))
    write_result(
        "fuzz_source",
        measure="faults (crash, hang, defect, leak of a path or a trace, other bytes) in mutated requests",
        value=len(outcome.faults),
        unit="faults",
        baseline=None,
        ratio=None,
        goal="0 in at least 100,000 requests, memory drift after warm-up under 5 %",
        requests=sent,
        seed=given.seed,
        seconds=round(seconds, 1),
        codes=dict(outcome.codes.most_common()),
        memory_drift=round(drift, 4),
        memory_mib={"warm": round(warm / 2**20, 1), "end": round(memory[-1][1] / 2**20, 1)},
        faults=outcome.faults[:20],
    )
    sys.exit(1 if outcome.faults else 0)


if __name__ == "__main__":
    main()
