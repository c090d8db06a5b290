"""The plan of a run: every source asked what it is, and which captures it can read."""

from __future__ import annotations

from fusery.core.tokens import ByteTokenizer
from fusery.errors import InvalidInput
from fusery.pipeline import local
from fusery.pipeline.cache import captured_top_k
from fusery.pipeline.preflight import Run
from fusery.worker.plan import Plan, PlannedSource, tokenizer_name


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
    return Plan(
        run_id=run.run_id,
        corpus_digest=train.digest,
        corpus_shards=train.shards,
        target_tokenizer_fingerprint=target.fingerprint,
        sources=tuple(sources),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )


def publish_tokenizer(run: Run, tokenizer: ByteTokenizer) -> None:
    name = tokenizer_name(tokenizer.fingerprint)
    if run.store.find(name) is None:
        run.store.publish(name, tokenizer.definition().encode(), {"name": tokenizer.name})
