"""Whole align_shard and fuse_shard tasks: tokens per second, and how much of the time is not spent in the core.

    python bench/hops.py [--k 10] [--documents 256]      # after `python bench/real_tokenizers.py`

A store in a temporary folder gets a corpus (Python's own documentation), two sources' captures with made top-k (the
token that does follow, and others at random) and the tasks run as a worker runs them, on one core. The core is
tokenising, alignment, projection, quality, fusion; the rest is reading and writing Parquet, checksums, files, counting.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pydoc_data.topics import topics  # type: ignore[import-untyped]

import numpy as np
from result_file import write_result

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.core import fusion
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import TopK
from fusery.hops import align
from fusery.hops.fuse import HOPS
from fusery.hops.names import corpus_shard, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import CapturedDocument, CorpusDocument
from fusery.hops.store.store import Store
from fusery.hops.tables import load_vocabulary_map

TOKENIZERS = Path(__file__).parent / "work" / "tokenizers"
SOURCES, TARGET = ("smollm2", "gpt-neox"), "llama-2"
DOCUMENT_BYTES = 2000
CORE = (
    (ByteTokenizer, "tokenize_batch"),
    *((align, name) for name in ("align", "project", "with_fallback")),
    *((fusion, name) for name in ("cost_of", "fuse", "merged")),
)


def corpus(documents: int) -> list[CorpusDocument]:
    text = "\n".join(topics[name] for name in sorted(topics)) * 8
    starts = range(0, documents * DOCUMENT_BYTES, DOCUMENT_BYTES)
    return [CorpusDocument(f"d{i}", "docs", text[start : start + DOCUMENT_BYTES]) for i, start in enumerate(starts)]


def captured(
    document: CorpusDocument, tokenizer: ByteTokenizer, k: int, random: np.random.Generator
) -> CapturedDocument:
    """The document as a source that gives the next token 0.4 and the rest a falling share would answer."""
    text = tokenizer.tokenize(document.text)
    rows = len(text.ids_T)
    ids = random.integers(0, tokenizer.size, size=(rows, k))
    ids[:-1, 0] = text.ids_T[1:]
    mass = np.concatenate([[0.4], 0.5 * np.full(k - 1, 0.6) ** np.arange(k - 1) * 0.4]) if k > 1 else np.array([0.4])
    log_probs = np.broadcast_to(np.log(mass), (rows, k)).astype(np.float16).astype(np.float32)
    top = TopK(ids.astype(np.int64), np.ascontiguousarray(log_probs))
    return CapturedDocument(document.doc_id, text.ids_T, text.byte_ends_T, top, log_probs[:, 0].copy())


def prepared(store: Store, documents: int, k: int, **sections: Any) -> Plan:
    """The plan of one shard, with everything before hop 2 in the store."""
    tokenizers = {}
    for name in (TARGET, *SOURCES):
        path = TOKENIZERS / f"{name}.json"
        if not path.exists():
            raise SystemExit(f"{path} is not there; run first: python bench/real_tokenizers.py")
        tokenizers[name] = ByteTokenizer.from_definition(path.read_text(encoding="utf-8"))
        store.publish(tokenizer_name(tokenizers[name].fingerprint), tokenizers[name].definition().encode())
    rows = corpus(documents)
    store.publish(corpus_shard("c" * 64, 0), shards.write_corpus(rows, {}))
    plan = Plan(
        run_id="bench",
        corpus_digest="c" * 64,
        corpus_shards=1,
        target_tokenizer_fingerprint=tokenizers[TARGET].fingerprint,
        sources=tuple(
            PlannedSource(
                name=name,
                model_fingerprint=name.ljust(64, "0"),
                tokenizer_fingerprint=tokenizers[name].fingerprint,
                vocabulary_size=tokenizers[name].size,
            )
            for name in SOURCES
        ),
        capture=CaptureSpec(top_k=k),
        alignment=AlignmentSpec(**sections.get("alignment", {})),
        fusion=FusionSpec(**sections.get("fusion", {})),
    )
    random = np.random.default_rng(0)
    for source in plan.sources:
        answers = [captured(document, tokenizers[source.name], k, random) for document in rows]
        meta = {"source": source.model_fingerprint, "tokenizer": source.tokenizer_fingerprint}
        name = plan.artefact(ShardTask(Hop.CAPTURE, source.name, 0))
        store.publish(name, shards.write_captured(answers, meta, "float16"))
        load_vocabulary_map(store, plan, source)
    return plan


@contextmanager
def core_timed(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the CPU seconds inside the core's functions while the block runs."""
    originals = [(owner, name, getattr(owner, name)) for owner, name in CORE]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - start

        return call

    for owner, name, function in originals:
        setattr(owner, name, timed(name, function))
    try:
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def measured(store: Store, plan: Plan, task: ShardTask, repeats: int) -> dict[str, Any]:
    """The fastest of some runs of a task: CPU seconds, share outside the core, tokens per second."""
    runs = []
    for _ in range(repeats):
        store.discard(plan.artefact(task))
        spent: dict[str, float] = {}
        with core_timed(spent):
            start = time.process_time()
            entry = HOPS[task.hop](store, plan, task)
            total = time.process_time() - start
        inside = sum(spent.values())
        runs.append({"seconds": total, "outside": (total - inside) / total, "tokens": entry.facts["tokens"], **spent})
    best = min(runs, key=lambda run: run["seconds"])
    return best | {"tokens_per_second": best["tokens"] / best["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    table = []
    for k in (10, 64):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            plan = prepared(store, given.documents, k)
            for task in (*(ShardTask(Hop.ALIGN, source, 0) for source in SOURCES), ShardTask(Hop.FUSE, "", 0)):
                result = measured(store, plan, task, given.repeats)
                table.append({"task": task.key, "k": k, **result})
                parts = ", ".join(f"{name} {1000 * result[name]:.0f} ms" for _, name in CORE if name in result)
                print(
                    f"k={k:<3} {task.key:24} {result['tokens_per_second']:>9,.0f} tokens/s   "
                    f"outside the core {result['outside']:.0%}   ({1000 * result['seconds']:.0f} ms: {parts})",
                    flush=True,
                )
    at_10 = [row for row in table if row["k"] == 10]
    seconds = sum(row["seconds"] for row in at_10)
    outside = sum(row["seconds"] * row["outside"] for row in at_10) / seconds
    write_result(
        "hops",
        measure="share of align_shard and fuse_shard not spent in the core, k=10, two sources",
        value=round(outside, 4),
        unit="share of CPU seconds",
        baseline={"what": "the whole tasks", "value": round(seconds, 4), "unit": "CPU seconds"},
        ratio=round(outside, 4),
        goal="below 0.5",
        table=table,
    )


if __name__ == "__main__":
    main()
