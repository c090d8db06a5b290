"""Register a run's fused model in MLflow."""

from __future__ import annotations

import json

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery register examples/tiny.yaml"


def set_up(parser: Parser) -> None:
    options.started_run(parser)
    options.accepts_licences(parser)


def call(given: Arguments) -> None:
    from fusery.run.steps.registration import accept_step, gate_of, register_step

    accept_step(given.file, given.accept_license, given.relative_to)
    print(json.dumps(register_step(given.file, given.relative_to), indent=2), flush=True)
    # A run that started this command says at its end what the gate said.
    if given.relative_to is None:
        gate_of(given.file)
