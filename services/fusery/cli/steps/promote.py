"""Give a registered version the alias champion."""

from __future__ import annotations

from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery promote examples/tiny.yaml"


def set_up(parser: Parser) -> None:
    what = "the run's YAML, or the name of a registered model (in the MLflow of FUSERY_TRACKING_URI)"
    parser.add_argument("given", metavar="FILE.yaml|NAME", help=what)
    parser.add_argument("--version", metavar="N", help="(default: the run's; of a name, the one with alias candidate)")
    parser.add_argument("--force", metavar="REASON", help="though the gate did not pass it; the reason is kept with it")


def call(given: Arguments) -> None:
    from fusery.run.steps.registration import promote_step, promoted_lines
    from fusery.runtime.text.shown import shown

    for line in promoted_lines(promote_step(given.given, given.version, given.force)):
        print(shown(line))
