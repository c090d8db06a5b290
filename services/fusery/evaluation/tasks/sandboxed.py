"""Started as a script of its own: shuts in a program that a model wrote, and ends all that is left of it.

python -I -S sandboxed.py [--keep] FOLDER SECONDS MEMORY_BYTES INTERPRETER ARGUMENTS…; Linux only. What must hold, or
the program is not started (REFUSED): no sockets, and no memory that no limit counts (seccomp); limits of time, memory,
files and processes; no root; no way to signal or change the processes outside: a process namespace, or another user;
nothing read but the system's folders, and nothing written outside FOLDER (Landlock). An ordinary user's program also
has a read-only view of all file systems, since Landlock knows nothing of modes and owners of files.

FOLDER becomes a file system in memory with the same files: that is the limit of disk, and it goes with the program.
Root without mount rights, as in many containers, has none: there a program can write nothing at all. --keep leaves
FOLDER as it is and writable, for compilers alone.

This process stays outside, counts time, memory and processes of all descendants, and kills them at the end, also those
that left their session: orphans become its children. The program has an empty standard input; what this script was
given there is at descriptor WORD. Imports nothing of fusery: a start costs what Python's does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import time
from pathlib import Path

REFUSED = 125
"""Exit code: the sandbox could not be built; nothing was run."""
OUT_OF_TIME, TOO_LARGE = 124, 126
NOBODY = 65534
WORD = 3
"""The program's descriptor for what was on the standard input; one digit, for plain shells know no others."""
PATH = "/usr/local/bin:/usr/bin:/bin"

_NEW_MOUNTS, _NEW_USER, _NEW_PID, _NEW_NET, _NEW_IPC = 0x20000, 0x10000000, 0x20000000, 0x40000000, 0x08000000
_ANY_NAMESPACE = 0x7E020000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS = {
    "x86_64": {"clone": 56, "clone3": 435},
    "aarch64": {"clone": 220, "clone3": 435},
}
_FORBIDDEN = {
    # socket, io_uring_setup, ptrace, unshare, setns; memfd_create and _secret, shmget, msgget, semget, mq_open: memory
    # that is no process's; add_key, request_key, keyctl, bpf, userfaultfd, perf_event_open: for no program of a test.
    "x86_64": (41, 425, 101, 272, 308, 319, 447, 29, 68, 64, 240, 248, 249, 250, 321, 323, 298),
    "aarch64": (198, 425, 117, 97, 268, 279, 447, 194, 186, 190, 180, 217, 218, 219, 280, 282, 241),
}
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _SUBREAPER, _DEATH_SIGNAL = 38, 22, 2, 36, 1
_MAX_FILE_BYTES, _MAX_OPEN, _MAX_PROCESSES = 16 << 20, 256, 64
_MAX_DISK, _MAX_MEMORY = "size=64m,nr_inodes=8192,mode=0700", 2 << 30
_LOOK_S = 0.05
_READ, _WRITE = 0b1101, 0b1111111110010
"""Landlock's rights of its first version: execute, read files and folders; and everything that changes something."""
_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/opt", sys.base_prefix)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_PRIVATE, _RECURSIVE, _NO_SET_UID, _NO_DEVICES = 1 << 18, 1 << 14, 2, 4
_MOUNT_SETATTR, _HERE, _ALL_BELOW, _READ_ONLY = 442, -100, 0x8000, 1

libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def main(arguments: list[str]) -> None:
    keeps = arguments[0] == "--keep"
    folder, seconds, memory_bytes, *command = arguments[keeps:]
    # Where a parent ignores it, a child's end is not told.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.chdir(folder)
        os.dup2(0, WORD)
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        _ask(libc.prctl(_SUBREAPER, 1, 0, 0, 0))
        user = os.geteuid()
        has_namespaces = _into_namespaces()
        if not has_namespaces and user != 0:
            # Filters can't replace this: one user's processes reach each other in too many ways besides kill().
            raise OSError("no process namespace (unshare) and no other user to be had: a program could end fusery")
        child = os.fork()
        if child:
            sys.exit(_watch(child, int(seconds), int(memory_bytes) or _MAX_MEMORY))
        _ask(libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
        writable = keeps or (has_namespaces and _into_memory(folder, user))
        _limit(int(seconds), int(memory_bytes), user)
        if user == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        _ask(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _allow_only(folder, writable)
        _forbid_calls()
        environment = {"PATH": PATH, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}
        os.execve(command[0], command, environment)
    except (OSError, KeyError, ValueError) as error:
        print(f"sandbox: {error!r}", file=sys.stderr)
        sys.exit(REFUSED)


def _ask(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _into_namespaces() -> bool:
    """Own network, shared memory and mounts, and processes for the next child; False: none, as in many containers."""
    user, group = os.geteuid(), os.getegid()
    flags = _NEW_MOUNTS | _NEW_PID | _NEW_NET | _NEW_IPC | (_NEW_USER if user else 0)
    if libc.unshare(flags) != 0:
        return False
    if user:
        # Without a name in its namespace a user can make no file.
        for name, line in {"uid_map": f"{user} {user} 1", "setgroups": "deny", "gid_map": f"{group} {group} 1"}.items():
            Path(f"/proc/self/{name}").write_text(line, encoding="ascii")
    return True


def _into_memory(folder: str, user: int) -> bool:
    """`folder` becomes a bounded file system in memory, with the files that were in it; False: root may not mount."""
    files = {path: (path.read_bytes(), path.stat().st_mode & 0o777) for path in Path(folder).iterdir()}
    owner = user or NOBODY
    options = f"{_MAX_DISK},uid={owner},gid={os.getegid() or NOBODY}".encode()
    try:
        _ask(libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None))
        if user:
            read_only = struct.pack("4Q", _READ_ONLY, 0, 0, 0)
            _ask(libc.syscall(_MOUNT_SETATTR, _HERE, b"/", _ALL_BELOW, read_only, ctypes.c_size_t(len(read_only))))
        _ask(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _NO_SET_UID | _NO_DEVICES, options))
    except OSError:
        if user:
            raise
        return False
    os.chdir(folder)
    for path, (content, mode) in files.items():
        path.write_bytes(content)
        path.chmod(mode)
        os.chown(path, owner, -1)
    return True


def _watch(child: int, seconds: int, memory_bytes: int) -> int:
    """Waits for the program, within its limits, and ends everything that is left of it; the exit code."""
    deadline = time.monotonic() + seconds
    try:
        while True:
            began = time.monotonic()
            used = _descendants()
            if began >= deadline:
                return OUT_OF_TIME
            if sum(used.values()) > memory_bytes or len(used) > _MAX_PROCESSES:
                print(f"sandbox: {sum(used.values())} bytes of memory in {len(used)} processes", file=sys.stderr)
                return TOO_LARGE
            # A machine with many processes is not looked at without a pause.
            code = _ended(child, max(_LOOK_S, 4 * (time.monotonic() - began)))
            if code is not None:
                return code
    finally:
        _end_all()


def _ended(child: int, wait_s: float) -> int | None:
    """The exit code of `child`, if it ends within `wait_s`; other children, which are orphans, are reaped too."""
    until = time.monotonic() + wait_s
    while True:
        found, status = os.waitpid(-1, os.WNOHANG)
        if found == child:
            ended = os.waitstatus_to_exitcode(status)
            return ended if ended >= 0 else 128 - ended
        if not found:
            if time.monotonic() >= until:
                return None
            time.sleep(0.005)


def _end_all() -> None:
    """Until no child is left: who is killed may have forked a moment before, and its children come here."""
    while True:
        for process in _descendants():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _descendants() -> dict[int, int]:
    """Resident bytes of every process below this one."""
    parents, sizes = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name stands in brackets, and may hold some.
            fields = path.read_bytes().rpartition(b")")[2].split()
            process = int(path.parent.name)
            parents[process], sizes[process] = int(fields[1]), int(fields[21]) * resource.getpagesize()
    return {process: size for process, size in sizes.items() if _is_below(process, parents)}


def _is_below(process: int, parents: dict[int, int]) -> bool:
    above = parents[process]
    # The look is no moment's picture: a number may stand twice in a line of parents.
    for _ in range(len(parents)):
        if above == os.getpid():
            return True
        above = parents.get(above, 0)
    return False


def _limit(seconds: int, memory_bytes: int, user: int) -> None:
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: _MAX_FILE_BYTES,
        resource.RLIMIT_NOFILE: _MAX_OPEN,
        resource.RLIMIT_CORE: 0,
    }
    if memory_bytes:
        limits[resource.RLIMIT_AS] = memory_bytes
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    # The limit counts all of the user's processes and threads, not this program's alone.
    present = 0 if user == 0 else _threads_of_user()
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


def _allow_only(folder: str, writable: bool) -> None:
    """Landlock."""
    handled = struct.pack("Q", _READ | _WRITE)
    rules = libc.syscall(444, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        raise OSError("no Landlock in this kernel (5.13 or newer, lsm=landlock): a program could read every file")
    allowed = {path: _READ for path in (*_READABLE, folder) if os.access(path, os.R_OK)}
    devices = {path: 0b100 for path in _DEVICES if os.access(path, os.R_OK)} | {"/dev/null": 0b110}
    for path, rights in {**allowed, **devices, **({folder: _READ | _WRITE} if writable else {})}.items():
        place = os.open(path, os.O_PATH)
        _ask(libc.syscall(445, rules, 1, ctypes.byref(_Beneath(rights, place)), 0))
        os.close(place)
    _ask(libc.syscall(446, rules, 0))
    os.close(rules)


def _forbid_calls() -> None:
    machine = platform.machine()
    allow, refuse, unknown, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    calls = _CALLS[machine]
    lines = [
        (0x20, 0, 0, 4),  # the architecture
        (0x15, 1, 0, _ARCHITECTURES[machine]),
        (0x06, 0, 0, kill),  # another one
        (0x20, 0, 0, 0),  # the call's number
        (0x35, 0, 1, 0x40000000),  # x32 on x86-64: its numbers are others
        (0x06, 0, 0, kill),
        # Its flags are in memory, where no filter looks; the C library takes clone then.
        (0x15, 0, 1, calls["clone3"]),
        (0x06, 0, 0, unknown),
    ]
    for number in _FORBIDDEN[machine]:
        lines += [(0x15, 0, 1, number), (0x06, 0, 0, refuse)]
    lines += [(0x15, 0, 3, calls["clone"]), (0x20, 0, 0, 16), (0x45, 0, 1, _ANY_NAMESPACE), (0x06, 0, 0, refuse)]
    lines.append((0x06, 0, 0, allow))
    content = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = _Program(len(lines), ctypes.addressof(content))
    _ask(libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0))


if __name__ == "__main__":
    main(sys.argv[1:])
