"""Programs that a model wrote, run against their tests in a process that can do no harm.

Off unless the run says `code_execution: true`. Each program gets a fresh folder, one limit each of time, memory, disk
and processes, no network, and not root (`sandboxed`); what it leaves, files and processes, goes with it. A program
passes if it ends with exit code 0 and has printed a word that only the line after its tests asks for, so one that ends
early does not pass. That is no proof against a program written to cheat: its tests share its process, and whatever they
can do, it can do before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusery.evaluation.tasks import sandboxed
from fusery.runtime.errors import ConfigError

_CHILD = Path(sandboxed.__file__)
_GIGABYTE = 1 << 30
_COMPILE_S = 60
_SANDBOX_S = 60
"""To start and to clean up; busy machines are slow."""


@dataclass(frozen=True, slots=True)
class Language:
    """How programs of a language, in the form that HumanEval and MultiPL-E give them, are run.

    `ending`, put in the place of `last`, with which the tests end, or behind them, prints what is to be read at
    descriptor 3 (`sandboxed.WORD`). `trial` is the least program: it imports what the tests import. `memory_bytes` 0:
    the interpreter reserves more than it uses; no limit.
    """

    file: str
    command: tuple[str, ...]
    ending: str
    trial: str = ""
    last: str = ""
    compiler: tuple[str, ...] = ()
    memory_bytes: int = 2 * _GIGABYTE


def _python() -> str:
    """This interpreter, or the system's where only root can reach this one: programs do not run as root."""
    own = Path(sys.executable).resolve()
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in own.parents):
        return str(own)
    return shutil.which("python3", path=sandboxed.PATH) or str(own)


LANGUAGES: Mapping[str, Language] = {
    # -I: the tests need the standard library alone.
    "py": Language("program.py", (_python(), "-I", "program.py"), "print(__import__('os').read(3, 99).decode())"),
    "cpp": Language(
        "program.cpp",
        ("./program",),
        # The tests are main().
        last="}",
        ending='{ FILE *word = fdopen(3, "r"); for (int c; (c = getc(word)) != EOF;) putchar(c); } }',
        trial="#include <cstdio>\nint main() {\n}",
        compiler=("g++", "-std=c++17", "program.cpp", "-o", "program"),
    ),
    "js": Language(
        "program.js",
        ("node", "--max-old-space-size=512", "program.js"),
        ";require('fs').writeSync(1, require('fs').readFileSync(3))",
        memory_bytes=0,
    ),
    "lua": Language(
        "program.lua",
        ("lua", "program.lua"),
        last="os.exit(lu.LuaUnit.run())",
        ending="local failures = lu.LuaUnit.run()\nio.write(io.popen('cat <&3'):read('a'))\nos.exit(failures)",
        trial="lu = require('luaunit')\nos.exit(lu.LuaUnit.run())",
    ),
    "php": Language("program.php", ("php", "program.php"), "fpassthru(fopen('php://fd/3', 'r'));", trial="<?php"),
    "pl": Language(
        "program.pl", ("perl", "program.pl"), "open(WORD, '<&=', 3) and print <WORD>;", trial="use Test::Deep;"
    ),
    "rb": Language(
        "program.rb",
        ("ruby", "program.rb"),
        # The tests would run after the program's last line.
        "exit(1) unless Test::Unit::AutoRunner.run\nprint IO.new(3).read",
        trial="require 'test/unit'",
        memory_bytes=0,
    ),
    "sh": Language("program.sh", ("bash", "program.sh"), 'test $? = 0 && read -ru 3 && echo "$REPLY"'),
}


def passes(program: str, language: str = "py", timeout_s: int = 10) -> bool:
    """Whether `program`, which holds its own tests, runs to their end within `timeout_s` without an error.

    Raises:
        ConfigError: the language is unknown.
    """
    return _run(program, language, timeout_s)[0]


def check_sandbox(language: str = "py") -> None:
    """Checks that programs of `language` can be run here, shut in.

    Raises:
        ConfigError: they can't; says why.
    """
    known = _language(language)
    tool = (known.compiler or known.command)[0]
    if shutil.which(tool, path=sandboxed.PATH) is None:
        raise ConfigError(f"evaluation.tasks: programs of {language!r} need {tool}, which is not installed here")
    passed, code, output = _run(known.trial, language, timeout_s=20)
    if not passed:
        raise ConfigError(
            f"evaluation.code_execution: {language!r} programs can't be run here, shut in (exit code {code}): "
            f"{output.strip()[-1000:] or 'no message'}; it needs Linux "
            "with seccomp and Landlock, processes or a user of their own, "
            f"{tool} for ordinary users, and what the tests import (docs/evaluation.md)"
        )


def _language(name: str) -> Language:
    if name not in LANGUAGES:
        raise ConfigError(f"evaluation.tasks: no way to run {name!r} programs; known: {', '.join(sorted(LANGUAGES))}")
    return LANGUAGES[name]


def _run(program: str, name: str, timeout_s: int) -> tuple[bool, int | None, str]:
    """Whether one program came to its end, its exit code (None: out of time) and the end of its output."""
    language = _language(name)
    word = secrets.token_hex(16)
    ended = f"{program.rstrip().removesuffix(language.last)}\n{language.ending}\n"
    with tempfile.TemporaryDirectory(prefix="fusery-code-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / language.file).write_text(ended, encoding="utf-8", errors="replace")
        if os.geteuid() == 0:
            os.chown(folder, sandboxed.NOBODY, sandboxed.NOBODY)
        if language.compiler:
            code, output = _shut_in(("--keep",), language.compiler, folder, _COMPILE_S, language.memory_bytes)
            if code != 0:
                return False, code, output
        code, output = _shut_in((), language.command, folder, timeout_s, language.memory_bytes, word)
        return code == 0 and word in output, code, output


def _shut_in(
    options: Sequence[str], command: Sequence[str], folder: str, timeout_s: int, memory_bytes: int, word: str = ""
) -> tuple[int | None, str]:
    """Exit code (None: out of time) and the end of the output of `command`, run in the sandbox."""
    tool, *arguments = command
    sandbox = [sys.executable, "-I", "-S", str(_CHILD), *options, folder, str(timeout_s), str(memory_bytes)]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        given.write(f"{word}\n".encode())
        given.seek(0)
        child = subprocess.Popen(
            [*sandbox, shutil.which(tool, path=sandboxed.PATH) or tool, *arguments],
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={},
        )
        try:
            # The sandbox counts the time of the program, and this that of the sandbox.
            code: int | None = child.wait(timeout=timeout_s + _SANDBOX_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Everything of the program's session that is left.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4096))
        return None if code == sandboxed.OUT_OF_TIME else code, output.read().decode(errors="replace")
