"""Programs that a model wrote, run against their tests in a process that can do no harm.

Off unless the run says `code_execution: true`. Each program gets a fresh folder, limits of time, memory, file sizes and
processes, no network, and not root (`sandboxed`). Python programs must print a word at their end that the model could
not know, so that a program that ends early does not pass.
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusery.errors import ConfigError
from fusery.evaluation import sandboxed

_CHILD = Path(sandboxed.__file__)
_GIGABYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class Language:
    """How programs of a language are run. `memory_bytes` 0: its interpreter reserves more than it uses; no limit."""

    file: str
    command: tuple[str, ...]
    memory_bytes: int = 2 * _GIGABYTE


def _python() -> str:
    """This interpreter, or the system's where only root can reach this one: programs do not run as root."""
    own = Path(sys.executable).resolve()
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in own.parents):
        return str(own)
    return shutil.which("python3", path=sandboxed.PATH) or str(own)


LANGUAGES: Mapping[str, Language] = {
    # -I: the tests need the standard library alone.
    "py": Language("program.py", (_python(), "-I", "program.py")),
    "cpp": Language("program.cpp", ("sh", "-c", "g++ -std=c++17 program.cpp -o program && ./program")),
    "js": Language("program.js", ("node", "--max-old-space-size=512", "program.js"), 0),
    "lua": Language("program.lua", ("lua", "program.lua")),
    "php": Language("program.php", ("php", "program.php")),
    "pl": Language("program.pl", ("perl", "program.pl")),
    "rb": Language("program.rb", ("ruby", "program.rb"), 0),
    "sh": Language("program.sh", ("bash", "program.sh")),
}


def passes(program: str, language: str = "py", timeout_s: int = 10) -> bool:
    """Whether `program`, which holds its own tests, runs to its end without an error.

    Raises:
        ConfigError: the language is unknown.
    """
    word = secrets.token_hex(16)
    ending = f"\nprint({word!r})\n" if language == "py" else "\n"
    code, output = _run(program + ending, language, timeout_s)
    return code == 0 and (language != "py" or output.rstrip().endswith(word))


def check_sandbox(language: str = "py") -> None:
    """Nothing, if programs of `language` can be run here, shut in.

    Raises:
        ConfigError: they can't; says why.
    """
    tool = "g++" if language == "cpp" else _language(language).command[0]
    if shutil.which(tool, path=sandboxed.PATH) is None:
        raise ConfigError(f"evaluation.tasks: programs of {language!r} need {tool}, which is not installed here")
    code, output = _run("int main() {}" if language == "cpp" else "", language, timeout_s=20)
    if code != 0:
        raise ConfigError(
            f"evaluation.code_execution: no sandbox for {language!r} programs here (exit code {code}): "
            f"{output.strip()[-300:] or 'no message'}; it needs Linux with seccomp, and an interpreter that "
            "an ordinary user can start"
        )


def _language(name: str) -> Language:
    if name not in LANGUAGES:
        raise ConfigError(f"evaluation.tasks: no way to run {name!r} programs; known: {', '.join(sorted(LANGUAGES))}")
    return LANGUAGES[name]


def _run(program: str, name: str, timeout_s: int) -> tuple[int | None, str]:
    """Exit code (None: out of time) and output of one program."""
    language = _language(name)
    interpreter, *arguments = language.command
    with tempfile.TemporaryDirectory(prefix="fusery-code-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / language.file).write_text(program, encoding="utf-8", errors="replace")
        if os.geteuid() == 0:
            os.chown(folder, sandboxed.NOBODY, sandboxed.NOBODY)
        command = [sys.executable, "-I", "-S", str(_CHILD), folder, str(timeout_s), str(language.memory_bytes)]
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(
                [*command, shutil.which(interpreter, path=sandboxed.PATH) or interpreter, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={},
            )
            try:
                code: int | None = child.wait(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(child)
            output.seek(max(0, output.seek(0, os.SEEK_END) - 4096))
            return code, output.read().decode(errors="replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends everything of the program's session that is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
