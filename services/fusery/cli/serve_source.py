"""Serve an LLM's next-token distributions over gRPC."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery serve-source models/docs --port 50051"


def set_up(parser: Parser) -> None:
    from fusery.source.command import set_up

    set_up(parser, options.count, options.seconds)


def call(given: Arguments) -> int:
    from fusery.source.command import serve_source

    return serve_source(given)
