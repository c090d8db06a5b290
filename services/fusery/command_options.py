"""The options of each command, and what they take. Nothing is imported here that `fusery --help` can do without."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

Choice = TypeVar("Choice", bound=StrEnum)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, over 0, got {text!r}")
    return seconds


def _one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    """Reads a choice by its name; the nearest known name is in the message of a wrong one."""

    def parse(text: str) -> Choice:
        known = [choice.value for choice in choices]
        if text in known:
            return choices(text)
        near = difflib.get_close_matches(text, known, n=1, cutoff=0.0)
        raise argparse.ArgumentTypeError(f"no such mode: {text!r}; did you mean {near[0]!r}? known: {', '.join(known)}")

    return parse


def run_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="the run's YAML")


def started_run(parser: argparse.ArgumentParser) -> None:
    run_file(parser)
    help_text = "what relative paths in FILE.yaml are relative to, if it is a copy (default: its own folder)"
    parser.add_argument("--relative-to", type=Path, metavar="FOLDER", help=help_text)


def validate(parser: argparse.ArgumentParser) -> None:
    run_file(parser)
    parser.add_argument("--offline", action="store_true", help="read files only: no address is asked, no model opened")


def run(parser: argparse.ArgumentParser) -> None:
    started_run(parser)
    steps = ("capture", "align", "fuse", "train", "evaluate")
    parser.add_argument("--until", choices=steps, help="end after this step (default: all of them)")
    where = "create the run's Job in the cluster of your kubeconfig and follow it; Ctrl-C leaves it alone"
    parser.add_argument("--on", choices=("here", "kubernetes"), default="here", help=f"kubernetes: {where}")
    parser.add_argument("--json", action="store_true", help="progress and result as one JSON object per line")
    accepts_licences(parser)


def status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="FILE.yaml|RUN_ID", help="the run's YAML, or its id in the store")
    parser.add_argument("--store", metavar="URL", help="where a RUN_ID is looked for (default: FUSERY_STORE)")
    parser.add_argument("--json", action="store_true", help="for programs; with --watch one object per line")
    parser.add_argument("--watch", action="store_true", help="show it anew every few seconds, until it is done")


def coverage(parser: argparse.ArgumentParser) -> None:
    run_file(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def serve_source(parser: argparse.ArgumentParser) -> None:
    from fusery.source.command import set_up

    set_up(parser, _count, _seconds)


def query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="host:port of a source server")
    parser.add_argument("text", metavar="TEXT", help="what the source reads")
    parser.add_argument("--top-k", type=_count, default=5, help="candidates per position (default: 5)")
    parser.add_argument("--json", action="store_true", help="for programs")


def align(parser: argparse.ArgumentParser) -> None:
    from fusery.core.rules import Dtype, Positions, Vocabulary

    model = "a model's folder or Hub id, host:port of a source server, tgi:URL, vllm:URL, or a tokenizer's JSON file"
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what is compared; - reads standard input")
    parser.add_argument("--file", type=Path, help="a UTF-8 file with the text, instead of TEXT")
    parser.add_argument("--target", required=True, metavar="T", help=f"{model}; only its tokenizer is loaded")
    parser.add_argument("--source", required=True, metavar="S", action="append", help=f"{model}; may be repeated")
    for option, choices, default in (
        ("--positions", Positions, Positions.BOUNDARY),
        ("--vocabulary", Vocabulary, None),
    ):
        shown = "|".join(choice.value for choice in choices)
        usual = "partition, mined with reference" if default is None else default.value
        parser.add_argument(
            option, type=_one_of(choices), default=default, metavar="MODE", help=f"{shown} (default: {usual})"
        )
    parser.add_argument("--top", type=_count, default=3, help="next tokens and cells shown (default: 3)")
    parser.add_argument("--top-k", type=_count, default=64, help="entries asked of a source (default: 64, as a run)")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of the models that tgi:URL or vllm:URL serve")
    parser.add_argument("--dtype", type=_one_of(Dtype), default=Dtype.FLOAT32, help="of a source loaded here")
    parser.add_argument("--json", action="store_true", help="for programs; docs/align.md lists the keys")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all of it, and print a summary")


def conformance(parser: argparse.ArgumentParser) -> None:
    from fusery.core.rules import Dtype

    source = "host:port of a source server, a model's folder or Hub id, tgi:URL or vllm:URL; a second one to compare"
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=source)
    parser.add_argument("--texts", type=Path, metavar="FILE.jsonl", help="texts to use (default: built-in ones)")
    parser.add_argument("--top-k", type=_count, default=20, help="entries asked for, if allowed (default: 20)")
    parser.add_argument("--tolerance", type=_seconds, metavar="NATS", help="(default: by dtype; 0.001 for float32)")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of the model that tgi:URL or vllm:URL serves")
    parser.add_argument("--dtype", type=_one_of(Dtype), default=Dtype.FLOAT32, help="of a model that is loaded here")
    parser.add_argument("--json", action="store_true", help="for programs")


def worker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=_count, default=2, help="tasks at the same time (default: 2)")
    parser.add_argument("--hops", default="capture,align,fuse", help="the queues that it serves (default: all)")


def cache(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(dest="act", metavar="ls|verify|rm", required=True)
    store = "the store's folder or URL, or a run's YAML (default: FUSERY_STORE)"
    for name, summary in (
        ("ls", "Show what the store holds, how large it is, and which runs use it."),
        ("verify", "Read every artefact and check it; exit 1 if one is damaged."),
    ):
        act = acts.add_parser(name, help=summary, description=summary)
        act.add_argument("store", metavar="STORE|FILE.yaml", nargs="?", help=store)
        act.add_argument("--json", action="store_true", help="for programs")
        if name == "verify":
            act.add_argument("--remove", action="store_true", help="take damaged ones away, to be made again")
    summary = "Remove what is named and no unfinished run uses."
    act = acts.add_parser("rm", help=summary, description=summary)
    act.add_argument("names", metavar="NAME", nargs="*", help="as ls shows them; * stands for anything")
    act.add_argument("--store", metavar="STORE|FILE.yaml", help=store)
    act.add_argument("--unused", action="store_true", help="all that no run's plan names")
    act.add_argument("--force", action="store_true", help="also what unfinished runs use")
    act.add_argument("--yes", action="store_true", help="do not ask")


def kind_of_training(parser: argparse.ArgumentParser) -> None:
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--clm-only", action="store_true", help="the baseline: the same tokens and steps, λ = 1")
    kind.add_argument("--only-source", metavar="NAME", help="the baseline: this source's evidence alone")


def train(parser: argparse.ArgumentParser) -> None:
    started_run(parser)
    kind_of_training(parser)
    parser.add_argument("--threads", type=_count, help="CPU threads (default: all cores)")


def evaluate(parser: argparse.ArgumentParser) -> None:
    started_run(parser)
    parser.add_argument("--threads", type=_count, help="CPU threads (default: all cores)")
    parser.add_argument("--tasks", metavar="NAMES", help="suites and tasks, such as commonsense,reasoning or arc_easy")
    parser.add_argument("--task-limit", type=_count, help="only so many items of each task")
    parser.add_argument("--task-data", type=Path, metavar="FOLDER", help="where tasks have their data, before the hub")


def ablate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="the ablation's YAML (docs/ablation.md)")
    parser.add_argument("--parallel", type=_count, default=1, metavar="N", help="trainings at a time (default: 1)")
    parser.add_argument("--json", action="store_true", help="progress and result as one JSON object per line")


def register(parser: argparse.ArgumentParser) -> None:
    started_run(parser)
    accepts_licences(parser)


def accepts_licences(parser: argparse.ArgumentParser) -> None:
    what = "a licence that you accept, by id; where none is known, source:NAME or target; may be repeated"
    parser.add_argument("--accept-license", metavar="ID", action="append", default=[], help=what)


def promote(parser: argparse.ArgumentParser) -> None:
    what = "the run's YAML, or the name of a registered model (in the MLflow of FUSERY_TRACKING_URI)"
    parser.add_argument("given", metavar="FILE.yaml|NAME", help=what)
    parser.add_argument("--version", metavar="N", help="(default: the run's; of a name, the one with alias candidate)")
    parser.add_argument("--force", metavar="REASON", help="though the gate did not pass it; the reason is kept with it")


def k8s(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(dest="act", metavar="render", required=True)
    summary = "Print complete manifests: fusery k8s render FILE.yaml | kubectl create --filename -"
    act = acts.add_parser("render", help=summary, description=summary)
    run_file(act)
    jobs = ("run", "train", "evaluate")
    act.add_argument("--job", choices=jobs, default="run", help="what is to run (default: the whole run)")
    kind_of_training(act)
    act.add_argument("--namespace", metavar="NAME", help="instead of kubernetes.namespace")
    act.add_argument("--release", metavar="NAME", help="of the chart, instead of kubernetes.release")
    act.add_argument("--image", metavar="IMAGE", help="instead of kubernetes.image")


def report(parser: argparse.ArgumentParser) -> None:
    started_run(parser)
    where = "where the page goes (default: the run's folder, with its pictures)"
    parser.add_argument("--out", type=Path, metavar="FILE.html", help=where)
