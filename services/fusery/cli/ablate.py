"""Run one run in many settings from one set of captures, and show them in one table."""

from __future__ import annotations

from pathlib import Path

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery ablate examples/ablations/tiny.yaml"


def set_up(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="the ablation's YAML (docs/ablation.md)")
    parser.add_argument(
        "--parallel", type=options.count, default=1, metavar="N", help="trainings at a time (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="progress and result as one JSON object per line")


def call(given: Arguments) -> None:
    from fusery.run.ablation.run import ablate

    ablate(given.file, given.parallel, as_json=given.json)
