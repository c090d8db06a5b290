"""Children that start warm: `python -m fusery …` forked from a process that has imported torch, mlflow and fusery.

A command as a process of its own spends seconds on imports. A fork of a process that has done them spends none, and is
a child as any other: its own pid, environment, folder, streams, session and command line; the parent's `wait`, real
signals and kills. The process that forks does so twice: the first child ends, and the kernel gives the second one to
its nearest ancestor that takes orphans (PR_SET_CHILD_SUBREAPER), the process that asked.

    with warm_children():
        cli.main(["run", str(file)])        # its servers, worker and trainings are forks

What a child of a child starts (`fusery run` in a test's subprocess) is warm, too. Children with settings that a fork
does not get here (`pass_fds`, a user, a shell) start as usual. Linux only; elsewhere all do.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_SUBREAPER = 36
_ROOM = 8192
"""Bytes of the forking process's command line: what a child's may need."""
_OF_MODULES = (
    "fusery.hops.worker.command",
    "fusery.registry.follow",
    "fusery.registry.register",
    "fusery.run.run",
    "fusery.run.steps.registration",
    "fusery.run.steps.tasks",
    "fusery.source.engines.transformers",
    "fusery.source.server.serve",
    "fusery.trainer.job",
)
_usual = subprocess.Popen
_to_fork: socket.socket | None = None


class WarmPopen(subprocess.Popen):  # type: ignore[type-arg]
    """As `subprocess.Popen`; a fork where it is a command of fusery's."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _, pass_fds, cwd, env, _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, _, *user = rest
        *owner, new_session, group = user
        is_ours = isinstance(args, list) and [*args[:2]] == [sys.executable, "-m"] and args[2].startswith("fusery")
        if _to_fork is None or not is_ours or preexec_fn or pass_fds or shell or group != -1 or owner != _NOBODY:
            super()._execute_child(args, executable, preexec_fn, *rest)  # type: ignore[misc]
            return
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        asked = {
            "arguments": [str(argument) for argument in args[2:]],
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "new_session": bool(new_session),
        }
        libc = ctypes.CDLL(None)
        libc.prctl(_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(_to_fork, [json.dumps(asked).encode()], streams)
            answer = _to_fork.recv(64)
        finally:
            libc.prctl(_SUBREAPER, 0, 0, 0, 0)
        if not answer:
            raise OSError("the process that forks children has ended")
        self.pid = int(answer)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


_NOBODY: list[Any] = [None, None, None, -1]
"""gid, gids, uid, umask: as the parent's."""


@contextmanager
def warm_children() -> Iterator[None]:
    """Meanwhile this process's commands of fusery start warm. The process that forks starts once and stays."""
    global _to_fork
    if sys.platform != "linux":
        yield
        return
    before = subprocess.Popen
    _to_fork, subprocess.Popen = _started(), WarmPopen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = before  # type: ignore[misc]


@cache
def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(Path(__file__)), str(theirs.fileno()), " " * _ROOM]
    with theirs:
        forks = _usual(command, pass_fds=[theirs.fileno()], env={**os.environ, "OMP_NUM_THREADS": "1"})

    def end() -> None:
        ours.close()
        forks.wait()

    atexit.register(end)
    return ours


def _fork_on_request(asks: socket.socket) -> list[str]:
    """Forks for every request until the other side closes. Returns in children only: the arguments of `python -m`."""
    while True:
        content, streams, _, _ = socket.recv_fds(asks, 1 << 20, 3)
        if not content:
            os._exit(0)
        read, write = os.pipe()
        if (first := os.fork()) == 0:
            if (pid := os.fork()) == 0:
                os.close(read)
                os.close(write)
                return _become(json.loads(content), asks, streams)
            os.write(write, str(pid).encode())
            os._exit(0)
        os.waitpid(first, 0)
        asks.send(os.read(read, 64))
        for number in (read, write, *streams):
            os.close(number)


def _become(asked: dict[str, Any], asks: socket.socket, streams: list[int]) -> list[str]:
    """This fork as the process that was asked for."""
    global _to_fork
    asks.close()
    if asked["new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[0] = asked["folder"]
    arguments: list[str] = asked["arguments"]
    _name([sys.executable, "-m", *arguments])
    if arguments[1:2] in (["run"], ["ablate"]):
        _to_fork, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        subprocess.Popen = WarmPopen  # type: ignore[misc]
        if os.fork() == 0:
            _to_fork.close()
            _to_fork, subprocess.Popen = None, _usual  # type: ignore[misc]
            for number in streams:
                os.close(number)
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(nothing, number)
            _name(["forks"])
            return _fork_on_request(theirs)
        theirs.close()
        _to_fork.set_inheritable(False)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    return arguments


def _name(command: list[str]) -> None:
    """Shows `command` as this process's command line."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    start, end = int(fields[45]), int(fields[46])
    content = b"\0".join(argument.encode() for argument in command) + b"\0"
    ctypes.memmove(start, content[: end - start].ljust(end - start, b"\0"), end - start)


def _forks(number: int) -> None:
    """The program of the process that forks: imports, then forks; as a child it is the command."""
    import importlib

    import mlflow  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    for name in _OF_MODULES:
        importlib.import_module(name)
    # Arrow's allocator is made for forks; any other thread would be missing in the children.
    threads = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, threads
    gc.freeze()
    # The command's own module of this name, not this program.
    module = importlib.import_module("warm_children")
    arguments = module._fork_on_request(socket.socket(fileno=number))
    sys.argv = arguments
    del sys.modules["__main__"]
    code: object = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    # To take apart what was imported takes longer than most commands.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _forks(int(sys.argv[1]))
