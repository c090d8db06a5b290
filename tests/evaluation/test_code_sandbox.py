"""Programs of a model: what passes, and what a hostile one can't do."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from fusery.errors import ConfigError
from fusery.evaluation import code_sandbox
from fusery.evaluation.code_sandbox import check_sandbox, passes

# A sandbox that does not come up where it could is a failure, not a reason to skip.
pytestmark = pytest.mark.skipif(
    not Path("/proc/sys/kernel/seccomp/actions_avail").exists() or (os.geteuid() == 0 and not shutil.which("python3")),
    reason="needs Linux with seccomp, and for root a python3 of the system",
)


def test_a_program_whose_tests_hold_passes_and_others_do_not() -> None:
    right = "def add(a, b):\n    return a + b\n"
    assert passes(right + "assert add(2, 3) == 5")
    assert not passes(right + "assert add(2, 3) == 6")
    assert not passes("def add(a, b:\n")


def test_a_program_that_ends_early_does_not_pass() -> None:
    assert not passes("import sys\nsys.exit(0)\nassert False")
    assert not passes("import os\nos._exit(0)")


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
    # The folder above is another user's where this runs as root; otherwise the kernel's Landlock keeps it out.
    if os.geteuid() != 0 and not Path("/sys/kernel/security/landlock").exists() and not _has_landlock():
        pytest.skip("no Landlock in this kernel")
    (tmp_path / "precious").write_text("kept")
    assert not passes(f"open({str(tmp_path / 'precious')!r}, 'w').write('lost')")
    assert not passes(f"import os\nos.remove({str(tmp_path / 'precious')!r})")
    assert (tmp_path / "precious").read_text() == "kept"
    assert passes("open('mine.txt', 'w').write('1')\nassert open('mine.txt').read() == '1'")


def _has_landlock() -> bool:
    import ctypes

    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) >= 1


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_unknown_languages_and_missing_interpreters_are_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="no way to run 'cobol' programs; known: cpp, js"):
        check_sandbox("cobol")
    missing = code_sandbox.Language("p", ("no-such-interpreter", "p"))
    monkeypatch.setattr(code_sandbox, "LANGUAGES", {"py": missing})
    with pytest.raises(ConfigError, match="need no-such-interpreter, which is not installed here"):
        check_sandbox()


@pytest.mark.parametrize(
    ("language", "program"),
    [("sh", "test 1 = {}"), ("js", "require('assert').equal(1, {})"), ("pl", "die unless 1 == {};")],
)
def test_other_languages_pass_by_their_exit_code(language: str, program: str) -> None:
    try:
        check_sandbox(language)
    except ConfigError as error:
        pytest.skip(str(error))
    assert passes(program.format(1), language)
    assert not passes(program.format(2), language)
