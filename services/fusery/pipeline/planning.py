"""What a run does while its sources answer: asks them what they are, plans, has them read, and measures them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from fusery.core.tokens import ByteTokenizer
from fusery.errors import InvalidInput
from fusery.pipeline import local, steps
from fusery.pipeline.cache import captured_top_k
from fusery.pipeline.execution import HopsJob
from fusery.pipeline.preflight import Run, publish_input
from fusery.pipeline.progress import Board, Line
from fusery.worker.plan import Hop, Plan, PlannedSource, tokenizer_name

_POLL_S = 0.5


def plan_of(run: Run, target: ByteTokenizer, services: local.Services) -> Plan:
    """Asks every source what it is, and keeps its tokenizer.

    Raises:
        InvalidInput: a source has fewer entries than the run asks for.
    """
    train, sources = run.corpora.train, []
    for spec in run.config.sources:
        with services.client(spec.name) as client:
            model, tokenizer = client.model(), client.tokenizer()
        if run.config.capture.top_k > model.vocabulary_size:
            raise InvalidInput(f"source {spec.name}: capture.top_k is over its vocabulary of {model.vocabulary_size}")
        publish_tokenizer(run, tokenizer)
        planned = PlannedSource(
            name=spec.name,
            model_fingerprint=model.fingerprint,
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocabulary_size=model.vocabulary_size,
            captured_top_k=captured_top_k(
                run.store, model.fingerprint, train.digest, train.shards, run.config.capture, model.limits.max_top_k
            ),
        )
        sources.append(planned)
    return plan_with(run, target.fingerprint, sources)


def plan_with(run: Run, target_fingerprint: str, sources: Sequence[PlannedSource]) -> Plan:
    """The plan of a run whose sources are known."""
    train = run.corpora.train
    return Plan(
        run_id=run.run_id,
        corpus_digest=train.digest,
        corpus_shards=train.shards,
        target_tokenizer_fingerprint=target_fingerprint,
        sources=tuple(sources),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )


def hops_job(run: Run, plan: Plan, target: ByteTokenizer, services: local.Services, until: Hop) -> HopsJob:
    """The hops up to `until`; inputs that are found damaged are published again."""

    def make_inputs() -> None:
        publish_input(run)
        publish_tokenizer(run, target)
        for source in plan.sources:
            with services.client(source.name) as client:
                publish_tokenizer(run, client.tokenizer())

    return HopsJob(
        run.store,
        plan,
        services.broker_url,
        services.addresses,
        until,
        run.config.services.max_in_flight,
        make_inputs,
        services.supervisor.check,
    )


def publish_tokenizer(run: Run, tokenizer: ByteTokenizer) -> None:
    name = tokenizer_name(tokenizer.fingerprint)
    if run.store.find(name) is None:
        run.store.publish(name, tokenizer.definition().encode(), {"name": tokenizer.name})


def measure_sources(run: Run, plan: Plan, services: local.Services, board: Board) -> None:
    """All sources at the same time: each is a server of its own."""
    marks: dict[str, tuple[int, int]] = {}
    failures: list[Exception] = []

    def measure(name: str) -> None:
        try:
            with services.client(name) as client:
                steps.measure_source(run, plan, name, client, lambda done, total: marks.update({name: (done, total)}))
        except Exception as error:  # handed to the main thread
            failures.append(error)

    # Daemons: Ctrl-C does not wait for a request that is under way.
    threads = [threading.Thread(target=measure, args=(source.name,), daemon=True) for source in plan.sources]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        services.supervisor.check()
        time.sleep(_POLL_S)
        board.update(*(Line(f"measure {name}", *mark, "documents") for name, mark in sorted(marks.items())))
    if failures:
        raise failures[0]
