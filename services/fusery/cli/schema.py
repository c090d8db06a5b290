"""Print the JSON Schema of a run's YAML."""

from __future__ import annotations

import json

from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery schema > run-schema.json"


def set_up(_: Parser) -> None:
    pass


def call(_: Arguments) -> None:
    from fusery.config.run import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2))
