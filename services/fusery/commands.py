"""The commands. Each imports what it needs when it runs, so that `fusery --help` answers at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from fusery import command_options as options

Arguments = argparse.Namespace
Setup = Callable[[argparse.ArgumentParser], None]


def _validate(given: Arguments) -> None:
    from fusery.pipeline.corpus_reading import told
    from fusery.pipeline.evaluation_tasks import check_tasks
    from fusery.pipeline.licences import check_licences
    from fusery.pipeline.preflight import check_registered_name, check_run, open_run
    from fusery.shown_text import shown

    run = open_run(given.file, asks_store=not given.offline)
    if not given.offline:
        # What needs no model first: a model takes seconds.
        check_tasks(run)
        check_licences(run)
        check_registered_name(run, check_run(run))
    train, held_out = run.corpora.train, run.corpora.held_out
    print(f"{given.file}: valid; run {run.run_id}")
    print(f"  {len(run.config.sources)} sources, target {shown(run.config.target.model)}")
    removed = run.corpora.removed
    print(f"  {train.documents} training documents in {train.shards} shards, {held_out.documents} held out")
    print(f"  domains: {shown(', '.join(held_out.domains))}; {removed.duplicates} duplicates left out")
    if run.corpora.skipped:
        print(f"  skipped: {told(run.corpora.skipped)}")
    if removed.held_out:
        print(f"  {removed.held_out} left out of the training documents because their text is held out")


def _run(given: Arguments) -> int | None:
    if given.on == "kubernetes":
        return _run_on_kubernetes(given)
    from fusery.pipeline.registration import accept_step
    from fusery.pipeline.run import Until, run_to_the_end

    accept_step(given.file, given.accept_license, given.relative_to)
    until = None if given.until is None else Until(given.until)
    run_to_the_end(given.file, until, as_json=given.json, folder=given.relative_to)
    return None


def _run_on_kubernetes(given: Arguments) -> int:
    from fusery.cluster.command import run_on_kubernetes
    from fusery.errors import ConfigError

    if given.relative_to is not None:
        raise ConfigError("--relative-to: names a folder of this machine; for --on kubernetes set kubernetes.folder")
    options = [] if given.until is None else ["--until", given.until]
    for licence in given.accept_license:
        options += ["--accept-license", licence]
    return run_on_kubernetes(given.file, options, as_json=given.json)


def _status(given: Arguments) -> None:
    from fusery.pipeline.status import show_status

    show_status(given.run, given.store, as_json=given.json, watch=given.watch)


def _coverage(given: Arguments) -> None:
    from fusery.pipeline.coverage_show import show_coverage

    show_coverage(given.file, as_json=given.json)


def _schema(_: Arguments) -> None:
    from fusery.run_config import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2))


def _serve_source(given: Arguments) -> int:
    from fusery.source.command import serve_source

    return serve_source(given)


def _query(given: Arguments) -> None:
    from fusery.pipeline.query import query

    query(given.address, given.text, given.top_k, as_json=given.json)


def _align(given: Arguments) -> None:
    from fusery.pipeline.align import Request, align, text_of
    from fusery.pipeline.align_view import Modes

    text = text_of(given.text, given.file)
    modes = Modes.of(given.positions, given.vocabulary, given.top)
    request = Request(text, given.target, tuple(given.source), modes, given.top_k, given.dtype, given.tokenizer)
    align(request, as_json=given.json, html=given.html)


def _conformance(given: Arguments) -> int:
    from fusery.pipeline.conformance import Request, conformance

    tolerance, dtype = given.tolerance, given.dtype
    request = Request(tuple(given.source), given.texts, given.top_k, tolerance, given.tokenizer, dtype)
    return conformance(request, as_json=given.json)


def _worker(given: Arguments) -> None:
    from fusery.worker.command import run_worker

    run_worker(given.processes, given.hops.split(","))


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


def _train(given: Arguments) -> None:
    from fusery.pipeline.train_step import train_step

    options = {"clm_only": given.clm_only, "only_source": given.only_source}
    train_step(given.file, threads=given.threads, folder=given.relative_to, **options)


def _evaluate(given: Arguments) -> None:
    from fusery.pipeline.steps import evaluate_step

    data = None if given.task_data is None else str(given.task_data.resolve())
    tasks = None if given.tasks is None else tuple(given.tasks.split(","))
    options = {"tasks": tasks, "task_limit": given.task_limit, "task_data": data}
    changes = {key: value for key, value in options.items() if value is not None}
    evaluate_step(given.file, threads=given.threads, folder=given.relative_to, changes=changes)


def _register(given: Arguments) -> None:
    from fusery.pipeline.registration import accept_step, gate_of, register_step

    accept_step(given.file, given.accept_license, given.relative_to)
    registered: dict[str, Any] = register_step(given.file, given.relative_to)
    print(json.dumps(registered, indent=2), flush=True)
    # A run that started this command says at its end what the gate said.
    if given.relative_to is None:
        gate_of(given.file)


def _promote(given: Arguments) -> None:
    from fusery.pipeline.registration import promote_step, promoted_lines
    from fusery.shown_text import shown

    for line in promoted_lines(promote_step(given.given, given.version, given.force)):
        print(shown(line))


def _report(given: Arguments) -> None:
    from fusery.pipeline.report_files import report_step

    print(report_step(given.file, given.out, given.relative_to))


def _k8s(given: Arguments) -> None:
    from fusery.cluster.render import RenderedJob, render
    from fusery.errors import ConfigError
    from fusery.output import write_utf8

    arguments = ["--clm-only"] if given.clm_only else []
    arguments += [] if given.only_source is None else ["--only-source", given.only_source]
    if arguments and given.job != "train":
        raise ConfigError(f"{arguments[0]}: goes with --job train, got --job {given.job}")
    changes = {key: getattr(given, key) for key in ("namespace", "release", "image")}
    write_utf8(render(given.file, RenderedJob(given.job), changes, arguments))


def _ablate(given: Arguments) -> None:
    from fusery.ablation.run import ablate

    ablate(given.file, given.parallel, as_json=given.json)


COMMANDS: list[tuple[str, str, str, Setup, Callable[[Arguments], int | None]]] = [
    ("run", "Carry a run out to its end, or take it up again.", "fusery run examples/tiny.yaml", options.run, _run),
    (
        "validate",
        "Check a run's YAML, models, corpora and addresses, without any work.",
        "fusery validate examples/tiny.yaml",
        options.validate,
        _validate,
    ),
    (
        "status",
        "Show how far a run is, and its result.",
        "fusery status examples/tiny.yaml --json",
        options.status,
        _status,
    ),
    (
        "coverage",
        "Show how much of the target's text has evidence, from which source, and the mass it keeps.",
        "fusery coverage examples/tiny.yaml",
        options.coverage,
        _coverage,
    ),
    ("schema", "Print the JSON Schema of a run's YAML.", "fusery schema > run-schema.json", lambda _: None, _schema),
    (
        "serve-source",
        "Serve an LLM's next-token distributions over gRPC.",
        "fusery serve-source models/docs --port 50051",
        options.serve_source,
        _serve_source,
    ),
    (
        "query",
        "Ask a source server for next-token candidates at every position of a text.",
        'fusery query 127.0.0.1:50051 "def main():" --top-k 5',
        options.query,
        _query,
    ),
    (
        "conformance",
        "Test whether a source answers as it must, or whether two give the same distributions.",
        "fusery conformance vllm:http://gpu:8000 models/docs",
        options.conformance,
        _conformance,
    ),
    (
        "align",
        "Show how a target and its sources read a text, and what of their distributions reaches the target.",
        'fusery align "def main():" --target models/docs --source models/python',
        options.align,
        _align,
    ),
    (
        "worker",
        "Carry out tasks from the broker (FUSERY_BROKER_URL) on a store (FUSERY_STORE).",
        "FUSERY_BROKER_URL=redis://… FUSERY_STORE=/data fusery worker --processes 4",
        options.worker,
        _worker,
    ),
    (
        "cache",
        "Show, check and clear what a store holds: captures above all.",
        "fusery cache ls examples/tiny.yaml",
        options.cache,
        _cache,
    ),
    (
        "k8s",
        "Print a run as manifests for a Kubernetes cluster.",
        "fusery k8s render examples/kubernetes/one-pod.yaml --namespace ml",
        options.k8s,
        _k8s,
    ),
    (
        "train",
        "Train the target of a run whose shards are there.",
        "fusery train examples/tiny.yaml --clm-only",
        options.train,
        _train,
    ),
    (
        "evaluate",
        "Measure a run's models on held-out text and write evaluation.json.",
        "fusery evaluate examples/tiny.yaml --tasks commonsense --task-limit 200",
        options.evaluate,
        _evaluate,
    ),
    (
        "ablate",
        "Run one run in many settings from one set of captures, and show them in one table.",
        "fusery ablate examples/ablations/tiny.yaml",
        options.ablate,
        _ablate,
    ),
    (
        "register",
        "Register a run's fused model in MLflow.",
        "fusery register examples/tiny.yaml",
        options.register,
        _register,
    ),
    (
        "report",
        "Write a run's measures, gains, evidence and provenance as one HTML file.",
        "fusery report examples/tiny.yaml --out report.html",
        options.report,
        _report,
    ),
    (
        "promote",
        "Give a registered version the alias champion.",
        "fusery promote examples/tiny.yaml",
        options.promote,
        _promote,
    ),
]
