"""Started as a script of its own: shuts itself in and becomes the program that a model wrote.

python -I -S sandboxed.py FOLDER SECONDS MEMORY_BYTES INTERPRETER ARGUMENTS…; Linux only. What must hold, or the program
is not started: no sockets (seccomp), limits of time, memory, files and processes, no root, and no way to signal or
change the processes outside: a process namespace, or another user. What is added where the kernel has it: namespaces
without a network, which also end every child with the program, and Landlock: nothing is written outside FOLDER, and
nothing is read but the system's own folders. The program has an empty standard input; what this script was given there
is at descriptor WORD. Imports nothing of fusery: a start costs what Python's does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from pathlib import Path

REFUSED = 125
"""Exit code: the sandbox could not be built; nothing was run."""
NOBODY = 65534
WORD = 3
"""The program's descriptor for what was on the standard input; one digit, for plain shells know no others."""
PATH = "/usr/local/bin:/usr/bin:/bin"

_ARCHITECTURES = {"x86_64": (0xC000003E, (41, 425, 101)), "aarch64": (0xC00000B7, (198, 425, 117))}
"""For seccomp: the architecture's number, and those of socket, io_uring_setup and ptrace."""
_NEW_USER, _NEW_PID, _NEW_NET, _NEW_IPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_MAX_FILE_BYTES, _MAX_FILES, _MAX_PROCESSES = 16 << 20, 256, 64
_READ, _WRITE = 0b1101, 0b1111111110010
"""Landlock's rights of its first version: execute, read files and folders; and everything that changes something."""
_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/dev", "/proc", "/opt", sys.base_prefix)

libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def main(arguments: list[str]) -> None:
    folder, seconds, memory_bytes, *command = arguments
    os.chdir(folder)
    try:
        _move_input()
        if not _into_namespaces() and os.geteuid() != 0:
            # Filters can't replace this: one user's processes reach each other in too many ways besides kill().
            raise OSError("no process namespace (unshare) and no other user to be had: a program could end fusery")
        _limit(int(seconds), int(memory_bytes))
        _drop_root()
        _ask(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _allow_only(folder)
        _forbid_sockets()
        environment = {"PATH": PATH, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}
        os.execve(command[0], command, environment)
    except (OSError, KeyError, ValueError) as error:
        print(f"sandbox: {error!r}", file=sys.stderr)
        sys.exit(REFUSED)


def _ask(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _move_input() -> None:
    os.dup2(0, WORD)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)


def _into_namespaces() -> bool:
    """Own network, processes and shared memory; False: none, as in a container that forbids it."""
    flags = _NEW_PID | _NEW_NET | _NEW_IPC | (_NEW_USER if os.geteuid() else 0)
    if libc.unshare(flags) != 0:
        return False
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
    # The first process of a namespace: when it ends, the kernel ends all others in it. It ends with its parent.
    libc.prctl(1, 9, 0, 0, 0)
    return True


def _limit(seconds: int, memory_bytes: int) -> None:
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: _MAX_FILE_BYTES,
        resource.RLIMIT_NOFILE: _MAX_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if memory_bytes:
        limits[resource.RLIMIT_AS] = memory_bytes
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    # The limit counts all of the user's processes and threads, not this program's alone.
    present = 0 if os.geteuid() == 0 else _threads_of_user()
    resource.setrlimit(resource.RLIMIT_NPROC, (present + _MAX_PROCESSES,) * 2)


def _threads_of_user() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += len(list((process / "task").iterdir()))
        except OSError:
            continue
    return count


def _drop_root() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _allow_only(folder: str) -> None:
    """Landlock, where the kernel has it."""
    handled = struct.pack("Q", _READ | _WRITE)
    rules = libc.syscall(444, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return
    allowed = dict.fromkeys((path for path in _READABLE if os.access(path, os.R_OK)), _READ)
    for path, rights in {**allowed, folder: _READ | _WRITE, "/dev/null": 0b110}.items():
        place = os.open(path, os.O_PATH)
        _ask(libc.syscall(445, rules, 1, ctypes.byref(_Beneath(rights, place)), 0))
        os.close(place)
    _ask(libc.syscall(446, rules, 0))
    os.close(rules)


def _forbid_sockets() -> None:
    architecture, forbidden = _ARCHITECTURES[platform.machine()]
    lines = [
        (0x20, 0, 0, 4),  # the architecture
        (0x15, 1, 0, architecture),
        (0x06, 0, 0, 0x80000000),  # another one: kill
        (0x20, 0, 0, 0),  # the call's number
        (0x35, 0, 1, 0x40000000),  # x32 on x86-64: its numbers are others
        (0x06, 0, 0, 0x80000000),
    ]
    for place, number in enumerate(forbidden):
        lines.append((0x15, len(forbidden) - place, 0, number))
    lines += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | 1)]  # allowed; or EPERM
    content = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = _Program(len(lines), ctypes.addressof(content))
    _ask(libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0))


if __name__ == "__main__":
    main(sys.argv[1:])
