"""Print a run as manifests for a Kubernetes cluster."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery k8s render examples/kubernetes/one-pod.yaml --namespace ml"


def set_up(parser: Parser) -> None:
    acts = parser.add_subparsers(dest="act", metavar="render", required=True)
    summary = "Print complete manifests: fusery k8s render FILE.yaml | kubectl create --filename -"
    act = acts.add_parser("render", help=summary, description=summary)
    options.run_file(act)
    jobs = ("run", "train", "evaluate")
    act.add_argument("--job", choices=jobs, default="run", help="what is to run (default: the whole run)")
    options.kind_of_training(act)
    act.add_argument("--namespace", metavar="NAME", help="instead of kubernetes.namespace")
    act.add_argument("--release", metavar="NAME", help="of the chart, instead of kubernetes.release")
    act.add_argument("--image", metavar="IMAGE", help="instead of kubernetes.image")


def call(given: Arguments) -> None:
    from fusery.cluster.manifests.names import Step
    from fusery.cluster.manifests.render import render
    from fusery.runtime.errors import ConfigError
    from fusery.runtime.output import write_utf8

    arguments = ["--clm-only"] if given.clm_only else []
    arguments += [] if given.only_source is None else ["--only-source", given.only_source]
    if arguments and given.job != "train":
        raise ConfigError(f"{arguments[0]}: goes with --job train, got --job {given.job}")
    changes = {key: getattr(given, key) for key in ("namespace", "release", "image")}
    write_utf8(render(given.file, None if given.job == "run" else Step(given.job), changes, arguments))
