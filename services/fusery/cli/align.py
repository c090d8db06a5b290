"""Show how a target and its sources read a text, and what of their distributions reaches the target."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = 'fusery align "def main():" --target models/docs --source models/python'


def set_up(parser: Parser) -> None:
    from fusery.core.rules import Dtype, Positions, Vocabulary

    model = "a model's folder or Hub id, host:port of a source server, tgi:URL, vllm:URL, or a tokenizer's JSON file"
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what is compared; - reads standard input")
    parser.add_argument("--file", type=Path, help="a UTF-8 file with the text, instead of TEXT")
    parser.add_argument("--target", required=True, metavar="T", help=f"{model}; only its tokenizer is loaded")
    parser.add_argument("--source", required=True, metavar="S", action="append", help=f"{model}; may be repeated")
    for option, choices, default in (
        ("--positions", Positions, Positions.BOUNDARY),
        ("--vocabulary", Vocabulary, None),
    ):
        shown = "|".join(choice.value for choice in choices)
        usual = "partition, min_ed with reference" if default is None else default.value
        says = f"{shown} (default: {usual})"
        kind = options.one_of(choices, partial(_new_word, option[2:]))
        parser.add_argument(option, type=kind, default=default, metavar="MODE", help=says)
    parser.add_argument("--top", type=options.count, default=3, help="next tokens and cells shown (default: 3)")
    entries = "entries asked of a source (default: 64, as a run)"
    parser.add_argument("--top-k", type=options.count, default=64, help=entries)
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of the models that tgi:URL or vllm:URL serve")
    dtype = "of a source loaded here"
    parser.add_argument("--dtype", type=options.one_of(Dtype), default=Dtype.FLOAT32, help=dtype)
    parser.add_argument("--json", action="store_true", help="for programs; docs/align.md lists the keys")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all of it, and print a summary")


def _new_word(key: str, value: str) -> tuple[str, str] | None:
    from fusery.config.sections import AlignmentSpec

    return AlignmentSpec.new_word(key, value)


def call(given: Arguments) -> None:
    from fusery.run.inspect.align.command import Request, align, text_of
    from fusery.run.inspect.align.view import Modes

    text = text_of(given.text, given.file)
    modes = Modes.of(given.positions, given.vocabulary, given.top)
    request = Request(text, given.target, tuple(given.source), modes, given.top_k, given.dtype, given.tokenizer)
    align(request, as_json=given.json, html=given.html)
