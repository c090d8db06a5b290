"""Carry out tasks from the broker (FUSERY_BROKER_URL) on a store (FUSERY_STORE)."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "FUSERY_BROKER_URL=redis://… FUSERY_STORE=/data fusery worker --processes 4"


def set_up(parser: Parser) -> None:
    parser.add_argument("--processes", type=options.count, default=2, help="tasks at the same time (default: 2)")
    parser.add_argument("--hops", default="capture,align,fuse", help="the queues that it serves (default: all)")


def call(given: Arguments) -> None:
    from fusery.hops.worker.command import run_worker

    run_worker(given.processes, given.hops.split(","))
