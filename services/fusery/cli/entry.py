"""The entry point: reads the command line, runs one command, turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 the input is wrong (nothing was started), 3 part of the run failed for good,
4 done and kept, but the gate did not pass, 130 interrupted (the same command takes the run up again), 141 the reader of
the output has gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from fusery import __version__
from fusery.cli import (
    ablate,
    align,
    conformance,
    coverage,
    k8s,
    query,
    run,
    schema,
    serve_source,
    status,
    store,
    validate,
    worker,
)
from fusery.cli.options import Arguments, Parser
from fusery.cli.steps import evaluate, promote, register, report, train
from fusery.runtime.errors import FuseryError, how_to_install
from fusery.runtime.output import set_up_output
from fusery.runtime.stop_signals import end_as_any_process, start_as_usual
from fusery.runtime.text.shown import shown

_INTERRUPTED, _OUTPUT_CLOSED = 130, 141
_LINE_END = "\n"


class Command(Protocol):
    """A module of this package; its docstring is its help."""

    EXAMPLE: str

    def set_up(self, parser: Parser, /) -> None:
        """Adds the command's options."""

    def call(self, given: Arguments, /) -> int | None:
        """Its exit code; None: 0."""


COMMANDS: dict[str, Command] = {
    "run": run,
    "validate": validate,
    "status": status,
    "coverage": coverage,
    "schema": schema,
    "serve-source": serve_source,
    "query": query,
    "conformance": conformance,
    "align": align,
    "worker": worker,
    "store": store,
    "k8s": k8s,
    "train": train,
    "evaluate": evaluate,
    "ablate": ablate,
    "register": register,
    "report": report,
    "promote": promote,
}
_RENAMED = {"cache": "store"}
"""Former names of commands, which work for one more version."""
_QUIET = ("run", "status", "validate", "coverage", "align", "conformance", "query", "ablate")
"""Commands that answer a person: they log warnings only, unless FUSERY_LOG_LEVEL says otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code."""
    start_as_usual()
    end_as_any_process()
    set_up_output()
    given_words = list(sys.argv[1:] if arguments is None else arguments)
    if given_words and (name := _RENAMED.get(given_words[0])):
        old, given_words[0] = given_words[0], name
        print(f"warning: fusery {old} is called fusery {name} now; the next version drops {old}", file=sys.stderr)
    all_commands = parser()
    given = all_commands.parse_args(given_words)
    if given.command is None:
        all_commands.print_help()
        return 0
    try:
        _set_up(given.command)
        code = COMMANDS[given.command].call(given) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except FuseryError as error:
        return _failed(given.command, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed(given.command, "interrupted; the same command takes it up again", _INTERRUPTED)
    except BrokenPipeError:
        _forget_output()
        return _OUTPUT_CLOSED
    except Exception as error:
        return _failed(given.command, *_unexpected(error))


def _failed(command: str, message: str, exit_code: int) -> int:
    with suppress(OSError):
        print(f"fusery {command}: {shown(message, keeps=_LINE_END)}", file=sys.stderr, flush=True)
    logging.getLogger(__name__).debug("where it came from", exc_info=True)
    return exit_code


def _forget_output() -> None:
    """Points an output without a reader at nothing: Python flushes both once more when it ends, and would complain."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nothing, stream.fileno())


def _unexpected(error: Exception) -> tuple[str, int]:
    """Message and exit code of an error that fusery did not raise on purpose."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("fusery"):
        return f"the package {error.name} is not installed; this command needs it: {how_to_install('all')}", 2
    first_line = next(iter(str(error).splitlines()), "")
    shown = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    hint = "this is a defect, please report it; set FUSERY_LOG_LEVEL=debug for the traceback"
    return f"{shown}; {hint}", 1


def _set_up(command: str) -> None:
    if command == "schema":
        return
    from pydantic import ValidationError

    from fusery.runtime.errors import ConfigError
    from fusery.runtime.settings import settings
    from fusery.runtime.telemetry import set_up_logging

    try:
        place = settings()
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        name = f"FUSERY_{wrong['loc'][0]}".upper()
        # Not `from error`: its text has the value, which may be a secret.
        raise ConfigError(f"environment variable {name}: {wrong['msg']}; correct it, or unset it") from None
    quiet = command in _QUIET and "log_level" not in place.model_fields_set
    set_up_logging(command, "warning" if quiet else place.log_level, place.log_format)


def parser() -> Parser:
    """Reads a command line into its `command` and what that takes."""
    made = argparse.ArgumentParser(
        prog="fusery",
        description="Fuse several LLMs of different architectures and tokenizers into one.",
        epilog="Start with: make demo, or fusery run examples/tiny.yaml",
    )
    made.add_argument("--version", action="version", version=f"fusery {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        command.set_up(
            commands.add_parser(
                name,
                help=command.__doc__,
                description=command.__doc__,
                epilog=f"example:\n  {command.EXAMPLE}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return made
