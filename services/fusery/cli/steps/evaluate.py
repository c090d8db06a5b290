"""Measure a run's models on held-out text and write evaluation.json."""

from __future__ import annotations

from pathlib import Path

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery evaluate examples/tiny.yaml --tasks commonsense --task-limit 200"


def set_up(parser: Parser) -> None:
    options.started_run(parser)
    options.threads(parser)
    parser.add_argument("--tasks", metavar="NAMES", help="suites and tasks, such as commonsense,reasoning or arc_easy")
    parser.add_argument("--task-limit", type=options.count, help="only so many items of each task")
    parser.add_argument("--task-data", type=Path, metavar="FOLDER", help="where tasks have their data, before the hub")


def call(given: Arguments) -> None:
    from fusery.run.steps.steps import evaluate_step

    data = None if given.task_data is None else str(given.task_data.resolve())
    tasks = None if given.tasks is None else tuple(given.tasks.split(","))
    asked = {"tasks": tasks, "task_limit": given.task_limit, "task_data": data}
    changes = {key: value for key, value in asked.items() if value is not None}
    evaluate_step(given.file, threads=given.threads, folder=given.relative_to, changes=changes)
