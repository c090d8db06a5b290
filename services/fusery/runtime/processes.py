"""The embedded default: a broker, source servers and a worker as child processes on loopback.

They are the same programs that a cluster runs, started with free ports and a password of this start, watched,
started again when they die, and stopped with everything they started, on success, on errors and on Ctrl-C.
When the run itself is killed, its reaper ends them. Secrets go by standard input or environment, never by argument.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fusery.runtime.errors import FuseryError, Unavailable
from fusery.runtime.stop_signals import taken

_STOP_GRACE_S = 25.0


@dataclass(slots=True)
class Child:
    """A child process that is kept running. `restarts` counts deaths that nobody asked for.

    `stdin`: what it reads there, a few lines of text or a file. Text goes through a pipe and leaves no trace on a disk,
    but `start` waits until the child has read what is more than a pipe holds.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    stdin: str | Path | None = None
    max_restarts: int = 5
    restarts: int = 0
    _process: subprocess.Popen[str] | None = None
    _log_file: IO[str] | None = None
    _log_start: int = 0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_file = self._log_file or self.log.open("a", encoding="utf-8")
        self._log_start = self.log.stat().st_size
        with self._input() as stdin:
            self._process = subprocess.Popen(
                self.command,
                stdin=stdin,
                stdout=self._log_file,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                text=True,
                # A group of its own: Ctrl-C reaches the run, which stops its children in order.
                start_new_session=True,
            )
        if isinstance(self.stdin, str) and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(self.stdin)
                self._process.stdin.close()

    @contextlib.contextmanager
    def _input(self) -> Iterator[int | IO[str]]:
        if isinstance(self.stdin, Path):
            with self.stdin.open(encoding="utf-8") as file:
                yield file
        else:
            yield subprocess.DEVNULL if self.stdin is None else subprocess.PIPE

    @property
    def pid(self) -> int:
        assert self._process is not None, "started before it is asked for its pid"
        return self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def ask_to_stop(self) -> None:
        self._signal_group(signal.SIGTERM, only_leader=True)

    def kill(self) -> None:
        """Ends whatever is left of the child's process group."""
        self._signal_group(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None

    def wait(self, timeout_s: float) -> bool:
        """True if it ended within `timeout_s`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self, lines: int = 12) -> str:
        """The end of its log since it was last started."""
        try:
            words = self.log.read_bytes()[self._log_start :].decode(errors="replace")
            return "\n".join(words.splitlines()[-lines:])
        except OSError:
            return ""

    def _signal_group(self, number: signal.Signals, only_leader: bool = False) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if only_leader:
                self._process.send_signal(number)
            else:
                os.killpg(self._process.pid, number)


class _Reaper:
    """The process that ends the children of a killed run; started with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def know(self, pid: int) -> None:
        self._say(f"+{pid}")

    def forget(self, pid: int) -> None:
        self._say(f"-{pid}")

    def end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None

    def _say(self, line: str) -> None:
        if self._process is None:
            command = [sys.executable, "-m", "fusery.runtime.reaper"]
            nothing = subprocess.DEVNULL
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, text=True, start_new_session=True
            )
        assert self._process.stdin is not None, "it was started with a pipe"
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self._process.stdin, flush=True)


@dataclass(slots=True)
class Supervisor:
    """Starts children, starts them again when they die, stops them all. Use as a context manager."""

    children: list[Child] = field(default_factory=list)
    _reaper: _Reaper = field(default_factory=_Reaper)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def start(self, child: Child) -> Child:
        self.children.append(child)
        self._start(child)
        return child

    def _start(self, child: Child) -> None:
        child.start()
        self._reaper.know(child.pid)

    def check(self) -> None:
        """Starts dead children again.

        Raises:
            FuseryError: one died more often than it may; with the end of its log.
        """
        for child in self.children:
            if child.is_running():
                continue
            if child.restarts >= child.max_restarts:
                raise FuseryError(
                    f"{child.name} ended {child.restarts + 1} times, last with exit code {child.exit_code}; the end of "
                    f"{child.log}:\n{child.last_words()}"
                )
            child.restarts += 1
            # What is left of its group, such as the children of a worker, would compete with those of the new one.
            self._reap(child)
            self._start(child)

    def _reap(self, child: Child) -> None:
        pid = child.pid
        child.kill()
        self._reaper.forget(pid)

    def stop_all(self) -> None:
        """Asks all to stop, waits, then kills what is left; in the reverse order of their start.

        A second Ctrl-C does not cut this short: children have sessions of their own and would be left running.
        """
        with taken(signal.SIG_IGN):
            self._stop_all()

    def _stop_all(self) -> None:
        for child in reversed(self.children):
            child.ask_to_stop()
        deadline = time.monotonic() + _STOP_GRACE_S
        for child in reversed(self.children):
            child.wait(max(0.1, deadline - time.monotonic()))
            self._reap(child)
        self.children.clear()
        self._reaper.end()


def wait_for_file(path: Path, child: Child, timeout_s: float) -> str:
    """The content of the file that `child` writes when it is ready.

    Raises:
        FuseryError: the child ended first; with the end of its log.
        Unavailable: it did not get ready in time.
    """
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if not child.is_running():
            raise FuseryError(
                f"{child.name} ended with exit code {child.exit_code} before it was ready; the end of {child.log}:\n"
                f"{child.last_words()}"
            )
        if time.monotonic() > deadline:
            raise Unavailable(f"{child.name} was not ready after {timeout_s:.0f} s; see {child.log}")
        time.sleep(0.1)
    return path.read_text(encoding="utf-8").strip()


def fusery_command(*arguments: str) -> list[str]:
    """The command line of this installation."""
    return [sys.executable, "-m", "fusery", *arguments]
