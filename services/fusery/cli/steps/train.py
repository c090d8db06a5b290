"""Train the target of a run whose shards are there."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery train examples/tiny.yaml --clm-only"


def set_up(parser: Parser) -> None:
    options.started_run(parser)
    options.kind_of_training(parser)
    options.threads(parser)


def call(given: Arguments) -> None:
    from fusery.pipeline.train_step import train_step

    kind = {"clm_only": given.clm_only, "only_source": given.only_source}
    train_step(given.file, threads=given.threads, folder=given.relative_to, **kind)
