"""Show how much of the target's text has evidence, from which source, and the mass it keeps."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery coverage examples/tiny.yaml"


def set_up(parser: Parser) -> None:
    options.run_file(parser)
    options.for_programs(parser)


def call(given: Arguments) -> None:
    from fusery.run.show_coverage import show_coverage

    show_coverage(given.file, as_json=given.json)
