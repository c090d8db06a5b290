"""Train the target of a run whose shards are there."""

from __future__ import annotations

from pathlib import Path

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery train examples/tiny.yaml --clm-only"


def set_up(parser: Parser) -> None:
    help_text = "the run's YAML, or a training of it as `fusery run` writes it"
    parser.add_argument("file", type=Path, metavar="FILE.yaml|TRAINING.json", help=help_text)
    options.relative_to(parser)
    options.kind_of_training(parser)
    options.threads(parser)


def call(given: Arguments) -> None:
    asked = {key: getattr(given, key) for key in ("clm_only", "only_source", "relative_to")}
    if given.file.suffix != ".json":
        from fusery.run.steps.trainings import train_step

        train_step(given.file, given.threads, **asked)
        return
    from fusery.run.steps.training_file import carry_out, read_training
    from fusery.runtime.errors import ConfigError

    if any(asked.values()):
        raise ConfigError(f"{given.file}: says itself which training it is; leave the other options out")
    carry_out(read_training(given.file), given.threads)
