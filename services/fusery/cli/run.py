"""Carry a run out to its end, or take it up again."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery run examples/tiny.yaml"


def set_up(parser: Parser) -> None:
    options.started_run(parser)
    steps = ("capture", "align", "fuse", "train", "evaluate")
    parser.add_argument("--until", choices=steps, help="end after this step (default: all of them)")
    where = "create the run's Job in the cluster of your kubeconfig and follow it; Ctrl-C leaves it alone"
    parser.add_argument("--on", choices=("here", "kubernetes"), default="here", help=f"kubernetes: {where}")
    parser.add_argument("--json", action="store_true", help="progress and result as one JSON object per line")
    options.accepts_licences(parser)


def call(given: Arguments) -> int | None:
    if given.on == "kubernetes":
        return _on_kubernetes(given)
    from fusery.run.run import Stage, run_to_the_end
    from fusery.run.steps.registration import accept_step

    accept_step(given.file, given.accept_license, given.relative_to)
    until = None if given.until is None else Stage(given.until)
    run_to_the_end(given.file, until, as_json=given.json, folder=given.relative_to)
    return None


def _on_kubernetes(given: Arguments) -> int:
    from fusery.cluster.run_there import run_on_kubernetes
    from fusery.runtime.errors import ConfigError

    if given.relative_to is not None:
        raise ConfigError("--relative-to: names a folder of this machine; for --on kubernetes set kubernetes.folder")
    arguments = [] if given.until is None else ["--until", given.until]
    for licence in given.accept_license:
        arguments += ["--accept-license", licence]
    return run_on_kubernetes(given.file, arguments, as_json=given.json)
