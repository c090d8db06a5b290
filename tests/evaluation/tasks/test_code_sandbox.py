"""Programs of a model: what passes, and what a hostile one can't do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fusery.evaluation.tasks import sandbox as code_sandbox
from fusery.evaluation.tasks import sandboxed
from fusery.evaluation.tasks.sandbox import check_sandbox, passes
from fusery.runtime.errors import ConfigError


def _can_shut_in() -> bool:
    """Whether this machine gives what the sandbox needs: one that then does not come up is a failure."""
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists() or not _has_landlock():
        return False
    if os.geteuid() == 0:
        return shutil.which("python3") is not None
    namespaces = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x30020000) != 0)"
    return subprocess.run([sys.executable, "-c", namespaces], check=False).returncode == 0


def _has_landlock() -> bool:
    import ctypes

    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) >= 1


pytestmark = pytest.mark.skipif(
    not _can_shut_in(),
    reason="needs Linux with seccomp and Landlock, and as root a python3 of the system, as another user namespaces",
)


def test_a_program_whose_tests_hold_passes_and_others_do_not() -> None:
    right = "def add(a, b):\n    return a + b\n"
    assert passes(right + "assert add(2, 3) == 5")
    assert not passes(right + "assert add(2, 3) == 6")
    assert not passes("def add(a, b:\n")


def test_a_program_that_ends_early_does_not_pass() -> None:
    assert not passes("import sys\nsys.exit(0)\nassert False")
    assert not passes("import os\nos._exit(0)")


def test_the_word_that_a_program_must_print_is_not_in_its_own_file() -> None:
    printing = "import os, re\nprint(*re.findall('[0-9a-f]{32}', open('program.py').read()), flush=True)\nos._exit(0)"
    assert not passes(printing)
    assert passes("import sys\nassert sys.stdin.read() == ''")


def test_a_program_that_never_ends_is_ended() -> None:
    assert not passes("while True:\n    pass", timeout_s=1)
    assert not passes("import time\ntime.sleep(100)", timeout_s=1)


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connecting = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)"
        server.settimeout(0.5)
        assert not passes(connecting)
        with pytest.raises(TimeoutError):
            server.accept()
    assert passes("import socket\ntry:\n    socket.socket()\nexcept OSError:\n    pass\nelse:\n    raise SystemExit(1)")


def test_nothing_is_written_outside_the_programs_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    assert not passes(f"open({str(tmp_path / 'precious')!r}, 'w').write('lost')")
    assert not passes(f"import os\nos.remove({str(tmp_path / 'precious')!r})")
    assert (tmp_path / "precious").read_text() == "kept"
    assert passes("open('mine.txt', 'w').write('1')\nassert open('mine.txt').read() == '1'")


def test_secrets_of_the_environment_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_BROKER_URL", "redis://:secret@host/0")
    assert passes("import os\nassert not any('secret' in value for value in os.environ.values())")


def test_it_is_not_root_and_memory_is_limited() -> None:
    assert passes("import os\nassert os.geteuid() != 0")
    assert not passes("x = bytearray(3 << 30)")
    assert not passes("open('big', 'wb').write(bytes(64 << 20))")


def test_children_do_not_outlive_the_program(tmp_path: Path) -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nelse:\n    print(1)"
    assert passes(program)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"program.py" in _read(path)]
    if os.geteuid() == 0:
        assert left == []


# Names of ctypes objects that a kernel without something would make fail.
NO_NAMESPACES = "names['libc'].unshare = lambda _: -1"
NO_MOUNTS = "names['libc'].mount = lambda *_: -1"
NO_LANDLOCK = "names['libc'].syscall = lambda *_: -1"


def _shut_in(
    program: str, without: str, user: int | None = None, folder: str = "/tmp", limits: tuple[str, str] = ("5", "0")
) -> subprocess.CompletedProcess[str]:
    """A program of the shell, started by `user` (None: this one) in the sandbox of a kernel without something."""
    script = f"import sys\nexec(sys.argv[1], names := {{'__name__': 'sandboxed'}})\n{without}\n"
    python = shutil.which("python3", path=sandboxed.PATH) if os.geteuid() == 0 else sys.executable
    assert python is not None
    return subprocess.run(
        [
            *(python, "-I", "-c", f"{script}names['main'](sys.argv[3:])"),
            *(Path(sandboxed.__file__).read_text(encoding="utf-8"), "", folder, *limits, "/bin/sh", "-c", program),
        ],
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _without_namespaces(program: str, user: int | None) -> subprocess.CompletedProcess[str]:
    return _shut_in(program, NO_NAMESPACES, user)


def test_without_a_process_namespace_only_another_user_s_programs_are_started() -> None:
    # A process of the same user could end the evaluation.
    refused = _without_namespaces("echo started", user=12345 if os.geteuid() == 0 else None)
    assert refused.returncode == sandboxed.REFUSED
    assert "no process namespace" in refused.stderr
    assert "started" not in refused.stdout
    if os.geteuid() == 0:
        ended = _without_namespaces("id -u; kill -0 $PPID || echo denied", user=None)
        assert ended.stdout.split() == [str(sandboxed.NOBODY), "denied"]


def test_without_landlock_nothing_is_started() -> None:
    refused = _shut_in("echo started", NO_LANDLOCK)
    assert refused.returncode == sandboxed.REFUSED
    assert "started" not in refused.stdout


def test_an_ordinary_user_whose_disk_can_not_be_bounded_is_refused() -> None:
    refused = _shut_in("echo started", NO_MOUNTS, user=12345 if os.geteuid() == 0 else None)
    assert refused.returncode == sandboxed.REFUSED
    assert "started" not in refused.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_an_ordinary_user_s_program_changes_nothing_of_the_user_s_and_leaves_nothing(place: Path) -> None:
    mine, inside = place / "mine", place / "inside"
    mine.write_text("kept")
    inside.mkdir()
    for path in (mine, inside):
        os.chown(path, 12345, 12345)
    outside = f"chmod 777 {mine} || echo refused; touch {mine} || echo refused; cat {mine} || echo refused"
    filling = "touch a; chmod 0 a; head -c 100M /dev/zero | split -b 1M - b || echo full; setsid sleep 61.75 & echo"
    ended = _shut_in(f"{outside}; {filling}", "", 12345, str(inside))
    if ended.returncode == sandboxed.REFUSED:
        pytest.skip(ended.stderr)
    assert ended.stdout.split() == ["refused", "refused", "refused", "full"]
    assert (mine.read_text(), mine.stat().st_mode & 0o777) == ("kept", 0o644)
    assert list(inside.iterdir()) == []
    assert _running(b"61.75") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone goes on without namespaces")
@pytest.mark.parametrize("without", [NO_NAMESPACES, NO_MOUNTS])
def test_where_root_may_not_mount_a_program_writes_nothing_and_its_processes_end_with_it(
    without: str, place: Path
) -> None:
    place.chmod(0o777)
    lasting = (
        "touch mine || echo refused; mkdir m || echo refused; setsid sleep 61.25 & setsid sh -c 'sleep 61.25' & echo"
    )
    ended = _shut_in(lasting, without, folder=str(place))
    assert ended.returncode == 0
    assert ended.stdout.split() == ["refused", "refused"]
    assert _running(b"61.25") == []
    assert list(place.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone goes on without namespaces")
@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("sleep 100", sandboxed.OUT_OF_TIME),
        ("while :; do sleep 100 & done", None),
        (": & : & (f() { f | f & }; f); sleep 100", None),
        ("for i in 1 2 3 4 5 6; do python3 -c 'x = bytearray(50 << 20); import time; time.sleep(9)' & done; wait", 126),
    ],
    ids=["time", "processes", "fork bomb", "memory of all together"],
)
def test_the_limits_hold_without_namespaces_too(program: str, code: int | None, place: Path) -> None:
    place.chmod(0o755)
    ended = _shut_in(program, NO_NAMESPACES, folder=str(place), limits=("4", str(200 << 20)))
    assert ended.returncode != 0
    assert code is None or ended.returncode == code
    ours = [path for path in Path("/proc").glob("[0-9]*") if str(place).encode() in _read(path / "environ")]
    assert ours == []


def _running(part: bytes) -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if part in _read(path)]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the sandbox's folders lie; every user may come this far."""
    folder = Path(tempfile.mkdtemp(prefix="fusery-test-", dir="/tmp"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# What a program leaves, or takes; each is followed by more of the same, and then it ends or does not.
HOSTILE = {
    "nested folders": "for _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
    "unreadable folders": "os.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a/b', 0)\nos.chmod('a', 0)",
    "a folder of its own that is closed": "os.chmod('.', 0)",
    "names of all kinds": "for name in (b'\\xff', b'a\\nb', b'-rf', b'*', b'x' * 255):\n    open(name, 'w').close()",
    "immutable names": "subprocess.run(['chattr', '+i', '.'])\nsubprocess.run(['chattr', '+a', 'program.py'])",
    "links": "os.symlink('/', 'root')\nos.symlink('.', 'self')\nos.mkfifo('pipe')\nos.link('pipe', 'again')",
    "a child": "subprocess.Popen(['sleep', '61.5'])",
    "a child that writes": "os.fork() or [open('f%d' % i, 'w').close() for i in range(10 ** 6)]",
    "a grandchild of another session": "os.fork() or (os.setsid(), os.fork() or time.sleep(61.5), os._exit(0))",
    "a child that hears no signal": "os.fork() or ([signal.signal(n, 1) for n in (1, 2, 15)], time.sleep(61))",
    "many children": "for _ in range(10 ** 4):\n    os.fork()",
    "a full disk": "for i in range(10 ** 4):\n    open('f%d' % i, 'wb').write(bytes(1 << 20))",
    "many files": "for i in range(10 ** 6):\n    open('f%d' % i, 'w').close()",
    "much output": "while True:\n    os.write(1, bytes(1 << 20))",
    "memory": "x = [bytearray(1 << 28) for _ in range(64)]",
    "memory of many": "[os.fork() for _ in range(4)]\nx = bytearray(400 << 20)\ntime.sleep(60)",
    "shared memory": "import mmap\nx = mmap.mmap(-1, 3 << 30)\n[x.write(bytes(1 << 20)) for _ in range(3 << 10)]",
    "memory of files": "n = os.memfd_create('x')\n[os.write(n, bytes(1 << 20)) for _ in range(15)]\nraise SystemExit",
    "its own end": "os.kill(os.getpid(), signal.SIGKILL)",
    "the end of all": "os.kill(-1, signal.SIGKILL)",
    "the parent's end": "os.kill(os.getppid(), signal.SIGKILL)",
    "a deep stack": "sys.setrecursionlimit(10 ** 9)\nf = lambda: f()\nf()",
    "time": "time.sleep(100)",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_program_leaves_no_file_and_no_process_and_ends_no_evaluation(program: str, place: Path) -> None:
    used = shutil.disk_usage(place).used
    passes(f"import os, signal, subprocess, sys, time\n{program}", timeout_s=3)
    assert list(place.iterdir()) == []
    assert _running(b"61.5") == []
    assert _running(str(place).encode()) == []
    assert shutil.disk_usage(place).used - used < 200 << 20
    assert passes("assert True"), "the next program is run"


@pytest.mark.parametrize(
    "program",
    [
        HOSTILE["nested folders"],
        HOSTILE["unreadable folders"],
        HOSTILE["links"],
        "assert len(os.listdir('.')) == 1\nopen('a', 'w').write('b')\nassert open('a').read() == 'b'",
        "os.chmod('program.py', 0o700)\nimport tempfile\ntempfile.mkdtemp()",
        "import threading\nthread = threading.Thread(target=print)\nthread.start()\nthread.join()",
        "assert subprocess.run(['ls'], capture_output=True).stdout == b'program.py\\n'",
        "import multiprocessing as m\na, b = m.Pipe()\na.send(1)\nassert b.recv() == 1",
        "print('x' * 10 ** 6)",
    ],
)
def test_what_programs_may_do_works(program: str) -> None:
    assert passes(f"import os, subprocess\n{program}", timeout_s=60)


@pytest.mark.parametrize(
    "program",
    [
        "__import__('ctypes').CDLL(None).unshare(0x10000000) and 1 / 0",
        "os.memfd_create('x')",
        "open('/proc/%d/environ' % os.getppid()).read() if os.getppid() else 1 / 0",
        "open('/dev/tty')",
        "open('/dev/shm/x', 'w')",
        "os.truncate('/tmp', 0)",
        "os.chmod('/tmp', 0o777)",
        "os.chmod(sys.prefix, 0o777)",
        "os.mkdir('/tmp/of-a-program')",
        "os.listdir('/tmp')",
        "os.listdir('/home')",
    ],
)
def test_what_programs_may_not_do_fails(program: str) -> None:
    assert not passes(f"import os, sys\n{program}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_unknown_languages_and_missing_interpreters_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no way to run 'cobol' programs; known: cpp, js"):
        check_sandbox("cobol")
    monkeypatch.setattr(sandboxed, "PATH", str(tmp_path))
    tools = {"cpp": r"g\+\+", "js": "node", "lua": "lua", "php": "php", "pl": "perl", "rb": "ruby", "sh": "bash"}
    for language, tool in tools.items():
        with pytest.raises(ConfigError, match=f"programs of '{language}' need {tool}, which is not installed here"):
            check_sandbox(language)


def test_what_the_tests_of_a_language_import_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = replace(code_sandbox.LANGUAGES["py"], trial="import test_deep")
    monkeypatch.setattr(code_sandbox, "LANGUAGES", {"py": lacking})
    with pytest.raises(ConfigError, match=r"'py' programs can't be run here(.|\n)* No module named 'test_deep'"):
        check_sandbox()


# MultiPL-E's form: a prompt that ends in an open function, the model's ANSWER, the tests.
FORMS = {
    "cpp": """#include<assert.h>
#include<bits/stdc++.h>
long add(long a, long b) {
ANSWER
}
int main() {
    auto candidate = add;
    assert(candidate((1), (2)) == (3));
    assert(candidate((2), (2)) == (4));
}
""",
    "js": """function add(a, b){
ANSWER
}
const assert = require('node:assert');

function test() {
  let candidate = add;
  assert.deepEqual(candidate(1, 2),3);
  assert.deepEqual(candidate(2, 2),4);
}

test();""",
    "lua": """local function add(a, b)
ANSWER
end
lu = require('luaunit')

function test_humaneval()
local candidate = add
    lu.assertEquals(candidate(1, 2), 3)
    lu.assertEquals(candidate(2, 2), 4)
end

os.exit(lu.LuaUnit.run())""",
    "php": """<?php
function add($a, $b) {
ANSWER
}
function candidate(...$args) {
    return add(...$args);
}

function test(): void {
    if (candidate(1, 2) !== 3) { throw new Exception("Test failed!"); }
    if (candidate(2, 2) !== 4) { throw new Exception("Test failed!"); }
}

test();""",
    "pl": """sub add {
    my($a, $b) = @_;
ANSWER
}
use Test::Deep;

sub testhumaneval {
    my $candidate = \\&add;
    if(eq_deeply($candidate->(1, 2),3)) {
        print "ok!" }else{
        exit 1;
        }
    if(eq_deeply($candidate->(2, 2),4)) {
        print "ok!" }else{
        exit 1;
        }
}

testhumaneval();""",
    "rb": """def add(a, b)
ANSWER
end
require 'test/unit'
class TestHumanEval < Test::Unit::TestCase
  def test_add
    candidate = method(:add)
    assert_equal(3, candidate.call(1, 2))
    assert_equal(4, candidate.call(2, 2))
  end
end
""",
    "sh": """#!/bin/bash
add() {
ANSWER
}

candidate() {
    add "$@"
}

set -e
run_test() {
    [[ $(candidate "1" "2") = "3" ]]
    [[ $(candidate "2" "2") = "4" ]]
}

run_test""",
}


@pytest.mark.parametrize(
    ("language", "right", "wrong", "early"),
    [
        ("cpp", "return a + b;", "return 3;", "exit(0);"),
        ("js", "return a + b;", "return 3;", "process.exit(0);"),
        ("lua", "return a + b", "return 3", "end\nos.exit(0)\nif true then"),
        ("php", "return $a + $b;", "return 3;", "exit(0);"),
        ("pl", "return $a + $b;", "return 3;", "exit 0;"),
        ("rb", "a + b", "3", "exit(0)"),
        ("sh", "echo $(($1 + $2))", "echo 3", "echo 3\n}\nexit 0\nrest() {"),
    ],
)
def test_a_program_of_every_language_passes_only_where_its_tests_ran_and_held(
    language: str, right: str, wrong: str, early: str
) -> None:
    try:
        check_sandbox(language)
    except ConfigError as error:
        pytest.skip(str(error))
    form = FORMS[language]
    # On a busy machine interpreters start slowly.
    assert passes(form.replace("ANSWER", right), language, timeout_s=60)
    assert not passes(form.replace("ANSWER", wrong), language)
    assert not passes(form.replace("ANSWER", early), language)


def test_compiling_does_not_count_towards_the_programs_time() -> None:
    try:
        check_sandbox("cpp")
    except ConfigError as error:
        pytest.skip(str(error))
    summing = """constexpr long slow() {
    long n = 0;
    for (long i = 0; i < 8; ++i) for (long j = 0; j < 100000; ++j) n += j;
    return n;
}
static_assert(slow() > 0);
#include <cstdio>
int main() {
}"""
    assert passes(summing, "cpp", timeout_s=2)
