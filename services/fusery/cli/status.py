"""Show how far a run is, and its result."""

from __future__ import annotations

from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery status examples/tiny.yaml --json"


def set_up(parser: Parser) -> None:
    parser.add_argument("run", metavar="FILE.yaml|RUN_ID", help="the run's YAML, or its id in the store")
    parser.add_argument("--store", metavar="URL", help="where a RUN_ID is looked for (default: FUSERY_STORE)")
    parser.add_argument("--json", action="store_true", help="for programs; with --watch one object per line")
    parser.add_argument("--watch", action="store_true", help="show it anew every few seconds, until it is done")


def call(given: Arguments) -> None:
    from fusery.run.status import show_status

    show_status(given.run, given.store, as_json=given.json, watch=given.watch)
