"""Notes of shards by hand: what hops would note, without any hop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.core.coverage import BINS
from fusery.hops.names import plan_name, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store.store import Store
from fusery.run.open_run import Run, open_run
from support.models.pico_models import pico_byte_tokenizer
from support.runs.pico_run import write_run

Note = dict[str, Any]
KINDS = {"prose": "sentencepiece", "code": "byte_level"}


def plan_of(shards: int = 2, sources: str = "ab", top_k: int = 4, **sections: Any) -> Plan:
    """A plan of sources with one letter each; `alignment` and `fusion` as in the YAML."""
    return Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=shards,
        target_tokenizer_fingerprint=pico_byte_tokenizer("sentencepiece").fingerprint,
        sources=tuple(
            PlannedSource(
                name=name,
                model_fingerprint=name * 64,
                tokenizer_fingerprint=pico_byte_tokenizer("byte_level").fingerprint,
                vocabulary_size=99,
            )
            for name in sources
        ),
        capture=CaptureSpec(top_k=top_k),
        alignment=AlignmentSpec.model_validate(sections.get("alignment", {})),
        fusion=FusionSpec.model_validate(sections.get("fusion", {})),
    )


def aligned_note(positions: int, kept: Sequence[float], no_cell: float = 0.0, **counts: int) -> Note:
    """One domain of an aligned shard's note: rows that keep `kept` each, all of it on the same bytes."""
    bins = np.minimum((np.asarray(kept, np.float64) * BINS).astype(np.int64), BINS - 1)
    return {
        "documents": 1,
        "positions": positions,
        "with_evidence": len(kept),
        "source_rows": positions,
        "source_astray": 0,
        "target_astray": 0,
        "same_bytes": float(sum(kept)),
        "other_bytes": 0.0,
        "larger_cell": 0.0,
        "no_cell": no_cell,
        "cell_tokens": 0.0,
        "kept_histogram": np.bincount(bins, minlength=BINS).tolist(),
        **counts,
    }


def publish(store: Store, plan: Plan, hop: Hop, source: str, shards: Sequence[dict[str, Note]]) -> None:
    """The first shards of a hop, each with its note by domain."""
    for shard, domains in enumerate(shards):
        store.publish(plan.artefact(ShardTask(hop, source, shard)), b"", {"tokens": 1, "domains": domains})


def begun(folder: Path, **sections: Any) -> tuple[Run, Plan]:
    """A run of three shards with its plan and tokenizers, and nothing done of it."""
    return begun_of(open_run(write_run(folder, **sections)))


def begun_of(run: Run) -> tuple[Run, Plan]:
    """The run with its plan and tokenizers, and nothing done of it."""
    for kind in KINDS.values():
        tokenizer = pico_byte_tokenizer(kind)
        run.store.publish(tokenizer_name(tokenizer.fingerprint), tokenizer.definition().encode())
    plan = Plan(
        run_id=run.run_id,
        corpus_digest=run.corpora.train.digest,
        corpus_shards=run.corpora.train.shards,
        target_tokenizer_fingerprint=pico_byte_tokenizer("sentencepiece").fingerprint,
        sources=tuple(
            PlannedSource(
                name=name,
                model_fingerprint=name * 16,
                tokenizer_fingerprint=pico_byte_tokenizer(kind).fingerprint,
                vocabulary_size=pico_byte_tokenizer(kind).size + 7,
            )
            for name, kind in KINDS.items()
        ),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )
    run.store.write_note(plan_name(run.run_id), plan.model_dump(mode="json"))
    return run, plan


def finish(run: Run, plan: Plan, **notes: Any) -> None:
    """All aligned and fused shards; `notes` by source, else full coverage."""
    full = {domain: aligned_note(100, [0.8] * 100) for domain in ("docs", "code")}
    for source in KINDS:
        publish(run.store, plan, Hop.ALIGN, source, [notes.get(source, full)] * plan.corpus_shards)
    won = {"positions": 100, "with_evidence": 80, "weights": {"prose": 60.0, "code": 20.0}}
    publish(run.store, plan, Hop.FUSE, "", [{"docs": won, "code": won}] * plan.corpus_shards)
