"""What options take, and the options that several commands share."""

from __future__ import annotations

import argparse
import difflib
import logging
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

Parser = argparse.ArgumentParser
Arguments = argparse.Namespace
Choice = TypeVar("Choice", bound=StrEnum)


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, over 0, got {text!r}")
    return value


def one_of(
    choices: type[Choice], new_word: Callable[[str], tuple[str, str] | None] | None = None
) -> Callable[[str], Choice]:
    """Reads a choice by its name; the nearest known name is in the message of a wrong one.

    `new_word`: key and value as they are called now, of a value that has an old name (`Section.new_word`).
    """

    def parse(text: str) -> Choice:
        known = [choice.value for choice in choices]
        if new_word is not None and (new := new_word(text)) is not None:
            log.warning("%s is called %s now; change it, the next version knows %s only", text, new[1], new[1])
            text = new[1]
        if text in known:
            return choices(text)
        near = difflib.get_close_matches(text, known, n=1, cutoff=0.0)
        raise argparse.ArgumentTypeError(f"no such mode: {text!r}; did you mean {near[0]!r}? known: {', '.join(known)}")

    return parse


def for_programs(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def run_file(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="the run's YAML")


def started_run(parser: Parser) -> None:
    """Of commands that `fusery run` starts too, in a process of their own."""
    run_file(parser)
    relative_to(parser)


def relative_to(parser: Parser) -> None:
    help_text = "what relative paths in FILE.yaml are relative to, if it is a copy (default: its own folder)"
    parser.add_argument("--relative-to", type=Path, metavar="FOLDER", help=help_text)


def threads(parser: Parser) -> None:
    parser.add_argument("--threads", type=count, help="CPU threads (default: all cores)")


def kind_of_training(parser: Parser) -> None:
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--clm-only", action="store_true", help="the baseline: the same tokens and steps, λ = 1")
    kind.add_argument("--only-source", metavar="NAME", help="the baseline: this source's evidence alone")


def accepts_licences(parser: Parser) -> None:
    what = "a licence that you accept, by id; where none is known, source:NAME or target; may be repeated"
    parser.add_argument("--accept-license", metavar="ID", action="append", default=[], help=what)
