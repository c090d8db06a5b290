"""Ask a source server for next-token candidates at every position of a text."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = 'fusery query 127.0.0.1:50051 "def main():" --top-k 5'


def set_up(parser: Parser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="host:port of a source server")
    parser.add_argument("text", metavar="TEXT", help="what the source reads")
    parser.add_argument("--top-k", type=options.count, default=5, help="candidates per position (default: 5)")
    options.for_programs(parser)


def call(given: Arguments) -> None:
    from fusery.run.inspect.query import query

    query(given.address, given.text, given.top_k, as_json=given.json)
