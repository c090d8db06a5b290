"""The commands. Each imports what it needs when it runs, so that `fusery --help` answers at once."""

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

Arguments = argparse.Namespace
Setup = Callable[[argparse.ArgumentParser], None]
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


def _run_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="the run's YAML")


def _started_run(parser: argparse.ArgumentParser) -> None:
    _run_file(parser)
    help_text = "what relative paths in FILE.yaml are relative to, if it is a copy (default: its own folder)"
    parser.add_argument("--relative-to", type=Path, metavar="FOLDER", help=help_text)


def _validate(given: Arguments) -> None:
    from fusery.pipeline.evaluation_tasks import check_tasks
    from fusery.pipeline.licences import check_licences
    from fusery.pipeline.preflight import check_run, open_run

    run = open_run(given.file, asks_store=not given.offline)
    if not given.offline:
        check_run(run)
        check_tasks(run)
        check_licences(run)
    train, held_out = run.corpora.train, run.corpora.held_out
    print(f"{given.file}: valid; run {run.run_id}")
    print(f"  {len(run.config.sources)} sources, target {run.config.target.model}")
    removed = run.corpora.removed
    print(f"  {train.documents} training documents in {train.shards} shards, {held_out.documents} held out")
    print(f"  domains: {', '.join(held_out.domains)}; {removed.duplicates} duplicates left out")
    if removed.held_out:
        print(f"  {removed.held_out} left out of the training documents because their text is held out")


def _set_up_validate(parser: argparse.ArgumentParser) -> None:
    _run_file(parser)
    parser.add_argument("--offline", action="store_true", help="read files only: no address is asked, no model opened")


def _run(given: Arguments) -> None:
    from fusery.pipeline.registration import accept_step
    from fusery.pipeline.run import Until, run_to_the_end

    accept_step(given.file, given.accept_license)
    run_to_the_end(given.file, None if given.until is None else Until(given.until), as_json=given.json)


def _set_up_run(parser: argparse.ArgumentParser) -> None:
    _run_file(parser)
    steps = ("capture", "align", "fuse", "train", "evaluate")
    parser.add_argument("--until", choices=steps, help="end after this step (default: all of them)")
    parser.add_argument("--json", action="store_true", help="progress and result as one JSON object per line")
    _accepts_licences(parser)


def _status(given: Arguments) -> None:
    from fusery.pipeline.status import show_status

    show_status(given.run, given.store, as_json=given.json, watch=given.watch)


def _set_up_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="FILE.yaml|RUN_ID", help="the run's YAML, or its id in the store")
    parser.add_argument("--store", metavar="URL", help="where a RUN_ID is looked for (default: FUSERY_STORE)")
    parser.add_argument("--json", action="store_true", help="for programs; with --watch one object per line")
    parser.add_argument("--watch", action="store_true", help="show it anew every few seconds, until it is done")


def _coverage(given: Arguments) -> None:
    from fusery.pipeline.coverage_show import show_coverage

    show_coverage(given.file, as_json=given.json)


def _set_up_coverage(parser: argparse.ArgumentParser) -> None:
    _run_file(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def _schema(_: Arguments) -> None:
    from fusery.run_config import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2))


def _serve_source(given: Arguments) -> int:
    from fusery.source.command import serve_source

    return serve_source(given)


def _set_up_serve_source(parser: argparse.ArgumentParser) -> None:
    from fusery.source.command import set_up

    set_up(parser, _count, _seconds)


def _query(given: Arguments) -> None:
    from fusery.pipeline.query import query

    query(given.address, given.text, given.top_k, as_json=given.json)


def _set_up_query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="host:port of a source server")
    parser.add_argument("text", metavar="TEXT", help="what the source reads")
    parser.add_argument("--top-k", type=_count, default=5, help="candidates per position (default: 5)")
    parser.add_argument("--json", action="store_true", help="for programs")


def _align(given: Arguments) -> None:
    from fusery.pipeline.align import Request, align, text_of
    from fusery.pipeline.align_view import Modes

    text = text_of(given.text, given.file)
    modes = Modes.of(given.positions, given.vocabulary, given.top)
    request = Request(text, given.target, tuple(given.source), modes, given.top_k, given.dtype)
    align(request, as_json=given.json, html=given.html)


def _set_up_align(parser: argparse.ArgumentParser) -> None:
    from fusery.core.rules import Dtype, Positions, Vocabulary

    model = "a model's folder or Hub id, host:port of a source server, or a tokenizer's JSON file"
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
    parser.add_argument("--dtype", type=_one_of(Dtype), default=Dtype.FLOAT32, help="of a source loaded here")
    parser.add_argument("--json", action="store_true", help="for programs; docs/align.md lists the keys")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all of it, and print a summary")


def _conformance(given: Arguments) -> int:
    from fusery.pipeline.conformance import Request, conformance

    tolerance, dtype = given.tolerance, given.dtype
    request = Request(tuple(given.source), given.texts, given.top_k, tolerance, given.tokenizer, dtype)
    return conformance(request, as_json=given.json)


def _set_up_conformance(parser: argparse.ArgumentParser) -> None:
    from fusery.core.rules import Dtype

    source = "host:port of a source server, a model's folder or Hub id, tgi:URL or vllm:URL; a second one to compare"
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=source)
    parser.add_argument("--texts", type=Path, metavar="FILE.jsonl", help="texts to use (default: built-in ones)")
    parser.add_argument("--top-k", type=_count, default=20, help="entries asked for, if allowed (default: 20)")
    parser.add_argument("--tolerance", type=_seconds, metavar="NATS", help="(default: by dtype; 0.001 for float32)")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of the model that tgi:URL or vllm:URL serves")
    parser.add_argument("--dtype", type=_one_of(Dtype), default=Dtype.FLOAT32, help="of a model that is loaded here")
    parser.add_argument("--json", action="store_true", help="for programs")


def _worker(given: Arguments) -> None:
    from fusery.worker.command import run_worker

    run_worker(given.processes, given.hops.split(","))


def _set_up_worker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=_count, default=2, help="tasks at the same time (default: 2)")
    parser.add_argument("--hops", default="capture,align,fuse", help="the queues that it serves (default: all)")


def _cache(given: Arguments) -> int | None:
    from fusery.pipeline import cache_show

    if given.act == "verify":
        return cache_show.show_verified(given.store, as_json=given.json, removes=given.remove)
    if given.act == "ls":
        cache_show.show_holdings(given.store, as_json=given.json)
    else:
        removal = cache_show.Removal(tuple(given.names), given.unused, given.force, given.yes)
        cache_show.show_removed(given.store, removal)
    return None


def _set_up_cache(parser: argparse.ArgumentParser) -> None:
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


def _train(given: Arguments) -> None:
    from fusery.pipeline.steps import train_step

    options = {"clm_only": given.clm_only, "only_source": given.only_source}
    train_step(given.file, threads=given.threads, folder=given.relative_to, **options)


def _set_up_train(parser: argparse.ArgumentParser) -> None:
    _started_run(parser)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--clm-only", action="store_true", help="the baseline: the same tokens and steps, λ = 1")
    kind.add_argument("--only-source", metavar="NAME", help="the baseline: this source's evidence alone")
    parser.add_argument("--threads", type=_count, help="CPU threads (default: all cores)")


def _evaluate(given: Arguments) -> None:
    from fusery.pipeline.steps import evaluate_step

    data = None if given.task_data is None else str(given.task_data.resolve())
    tasks = None if given.tasks is None else tuple(given.tasks.split(","))
    options = {"tasks": tasks, "task_limit": given.task_limit, "task_data": data}
    changes = {key: value for key, value in options.items() if value is not None}
    evaluate_step(given.file, threads=given.threads, folder=given.relative_to, changes=changes)


def _set_up_evaluate(parser: argparse.ArgumentParser) -> None:
    _started_run(parser)
    parser.add_argument("--threads", type=_count, help="CPU threads (default: all cores)")
    parser.add_argument("--tasks", metavar="NAMES", help="suites and tasks, such as commonsense,reasoning or arc_easy")
    parser.add_argument("--task-limit", type=_count, help="only so many items of each task")
    parser.add_argument("--task-data", type=Path, metavar="FOLDER", help="where tasks have their data, before the hub")


def _register(given: Arguments) -> None:
    from fusery.pipeline.registration import accept_step, gate_of, register_step

    accept_step(given.file, given.accept_license)
    registered: dict[str, Any] = register_step(given.file, given.relative_to)
    print(json.dumps(registered, indent=2), flush=True)
    # A run that started this command says at its end what the gate said.
    if given.relative_to is None:
        gate_of(given.file)


def _set_up_register(parser: argparse.ArgumentParser) -> None:
    _started_run(parser)
    _accepts_licences(parser)


def _accepts_licences(parser: argparse.ArgumentParser) -> None:
    what = "a licence with conditions that you accept, by id, or the source whose licence it is; may be repeated"
    parser.add_argument("--accept-license", metavar="ID", action="append", default=[], help=what)


def _promote(given: Arguments) -> None:
    from fusery.pipeline.registration import promote_step, promoted_lines

    for line in promoted_lines(promote_step(given.given, given.version, given.force)):
        print(line)


def _set_up_promote(parser: argparse.ArgumentParser) -> None:
    what = "the run's YAML, or the name of a registered model (in the MLflow of FUSERY_TRACKING_URI)"
    parser.add_argument("given", metavar="FILE.yaml|NAME", help=what)
    parser.add_argument("--version", metavar="N", help="(default: the run's; of a name, the one with alias candidate)")
    parser.add_argument("--force", metavar="REASON", help="though the gate did not pass it; the reason is kept with it")


def _report(given: Arguments) -> None:
    from fusery.pipeline.report_files import report_step

    print(report_step(given.file, given.out, given.relative_to))


def _set_up_report(parser: argparse.ArgumentParser) -> None:
    _started_run(parser)
    where = "where the page goes (default: the run's folder, with its pictures)"
    parser.add_argument("--out", type=Path, metavar="FILE.html", help=where)


COMMANDS: list[tuple[str, str, str, Setup, Callable[[Arguments], int | None]]] = [
    ("run", "Carry a run out to its end, or take it up again.", "fusery run examples/tiny.yaml", _set_up_run, _run),
    (
        "validate",
        "Check a run's YAML, models, corpora and addresses, without any work.",
        "fusery validate examples/tiny.yaml",
        _set_up_validate,
        _validate,
    ),
    (
        "status",
        "Show how far a run is, and its result.",
        "fusery status examples/tiny.yaml --json",
        _set_up_status,
        _status,
    ),
    (
        "coverage",
        "Show how much of the target's text has evidence, from which source, and the mass it keeps.",
        "fusery coverage examples/tiny.yaml",
        _set_up_coverage,
        _coverage,
    ),
    ("schema", "Print the JSON Schema of a run's YAML.", "fusery schema > run-schema.json", lambda _: None, _schema),
    (
        "serve-source",
        "Serve an LLM's next-token distributions over gRPC.",
        "fusery serve-source models/docs --port 50051",
        _set_up_serve_source,
        _serve_source,
    ),
    (
        "query",
        "Ask a source server for next-token candidates at every position of a text.",
        'fusery query 127.0.0.1:50051 "def main():" --top-k 5',
        _set_up_query,
        _query,
    ),
    (
        "conformance",
        "Test whether a source answers as it must, or whether two give the same distributions.",
        "fusery conformance vllm:http://gpu:8000 models/docs",
        _set_up_conformance,
        _conformance,
    ),
    (
        "align",
        "Show how a target and its sources read a text, and what of their distributions reaches the target.",
        'fusery align "def main():" --target models/docs --source models/python',
        _set_up_align,
        _align,
    ),
    (
        "worker",
        "Carry out tasks from the broker (FUSERY_BROKER_URL) on a store (FUSERY_STORE).",
        "FUSERY_BROKER_URL=redis://… FUSERY_STORE=/data fusery worker --processes 4",
        _set_up_worker,
        _worker,
    ),
    (
        "cache",
        "Show, check and clear what a store holds: captures above all.",
        "fusery cache ls examples/tiny.yaml",
        _set_up_cache,
        _cache,
    ),
    (
        "train",
        "Train the target of a run whose shards are there.",
        "fusery train examples/tiny.yaml --clm-only",
        _set_up_train,
        _train,
    ),
    (
        "evaluate",
        "Measure a run's models on held-out text and write evaluation.json.",
        "fusery evaluate examples/tiny.yaml --tasks commonsense --task-limit 200",
        _set_up_evaluate,
        _evaluate,
    ),
    (
        "register",
        "Register a run's fused model in MLflow.",
        "fusery register examples/tiny.yaml",
        _set_up_register,
        _register,
    ),
    (
        "report",
        "Write a run's measures, gains, evidence and provenance as one HTML file.",
        "fusery report examples/tiny.yaml --out report.html",
        _set_up_report,
        _report,
    ),
    (
        "promote",
        "Give a registered version the alias champion.",
        "fusery promote examples/tiny.yaml",
        _set_up_promote,
        _promote,
    ),
]
