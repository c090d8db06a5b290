"""Test whether a source answers as it must, or whether two give the same distributions."""

from __future__ import annotations

from pathlib import Path

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery conformance vllm:http://gpu:8000 models/docs"


def set_up(parser: Parser) -> None:
    from fusery.core.rules import Dtype

    source = "host:port of a source server, a model's folder or Hub id, tgi:URL or vllm:URL; a second one to compare"
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=source)
    parser.add_argument("--texts", type=Path, metavar="FILE.jsonl", help="texts to use (default: built-in ones)")
    parser.add_argument("--top-k", type=options.count, default=20, help="entries asked for, if allowed (default: 20)")
    tolerance = "(default: by dtype; 0.001 for float32)"
    parser.add_argument("--tolerance", type=options.seconds, metavar="NATS", help=tolerance)
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of the model that tgi:URL or vllm:URL serves")
    dtype = "of a model that is loaded here"
    parser.add_argument("--dtype", type=options.one_of(Dtype), default=Dtype.FLOAT32, help=dtype)
    options.for_programs(parser)


def call(given: Arguments) -> int:
    from fusery.run.inspect.conformance import Request, conformance

    tolerance, dtype = given.tolerance, given.dtype
    request = Request(tuple(given.source), given.texts, given.top_k, tolerance, given.tokenizer, dtype)
    return conformance(request, as_json=given.json)
