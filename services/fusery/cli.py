"""The entry point: reads the command line, runs one command, turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 the input is wrong (nothing was started), 3 part of the run failed for good,
4 done and kept, but the gate did not pass, 130 interrupted (the same command takes the run up again), 141 whoever read
the output has gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from fusery import __version__
from fusery.commands import COMMANDS
from fusery.errors import FuseryError, how_to_install
from fusery.output import set_up_output
from fusery.shown_text import shown
from fusery.stop_signals import end_as_any_process, start_as_usual

_INTERRUPTED, _OUTPUT_CLOSED = 130, 141
_LINE_END = "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code."""
    start_as_usual()
    end_as_any_process()
    set_up_output()
    parser = _parser()
    given = parser.parse_args(arguments)
    if not hasattr(given, "run_command"):
        parser.print_help()
        return 0
    try:
        _set_up(given.command)
        code: int = given.run_command(given) or 0
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
    """Python flushes both outputs once more when it ends, and would complain of the one whose reader has gone."""
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

    from fusery.errors import ConfigError
    from fusery.settings import settings
    from fusery.telemetry import set_up_logging

    try:
        place = settings()
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        name = f"FUSERY_{wrong['loc'][0]}".upper()
        # Not `from error`: its text has the value, which may be a secret.
        raise ConfigError(f"environment variable {name}: {wrong['msg']}; correct it, or unset it") from None
    quiet = (
        command in ("run", "status", "validate", "coverage", "align", "conformance", "query", "ablate")
        and "log_level" not in place.model_fields_set
    )
    set_up_logging(command, "warning" if quiet else place.log_level, place.log_format)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fusery",
        description="Fuse several LLMs of different architectures and tokenizers into one.",
        epilog="Start with: make demo, or fusery run examples/tiny.yaml",
    )
    parser.add_argument("--version", action="version", version=f"fusery {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary, example, set_up, run in COMMANDS:
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        set_up(command)
        command.set_defaults(run_command=run)
    return parser
