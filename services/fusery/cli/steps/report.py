"""Write a run's measures, gains, evidence and provenance as one HTML file."""

from __future__ import annotations

from pathlib import Path

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery report examples/tiny.yaml --out report.html"


def set_up(parser: Parser) -> None:
    options.started_run(parser)
    where = "where the page goes (default: the run's folder, with its pictures)"
    parser.add_argument("--out", type=Path, metavar="FILE.html", help=where)


def call(given: Arguments) -> None:
    from fusery.run.steps.report import report_step

    print(report_step(given.file, given.out, given.relative_to))
