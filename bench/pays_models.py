"""Models and evidence of `when_fusing_pays`: the demo's, and those that differ from them in one thing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fusery.hops.capture import capture
from fusery.hops.names import digest, plan_name, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.run.open_run import Run, open_run, publish_input
from fusery.run.steps import baselines as evaluation_baselines
from fusery.source.engines.transformers import TransformersEngine, load_engine

ROOT = Path(__file__).parent.parent
DEMO, WORK = ROOT / "examples" / "work" / "tiny", Path(__file__).parent / "work" / "when_fusing_pays"
DOMAIN, TARGET = "cpp", "docs"
CLM_WEIGHT = 0.3
WIDTH, SOURCE_STEPS, TARGET_STEPS = 128, 480, 200
"""Those of the demo's models, which are not trained again."""


@dataclass(frozen=True, slots=True)
class Point:
    """What decides one comparison. `same_tokenizer`: the source is of the target's kind, tokenizer and all."""

    source_steps: int = SOURCE_STEPS
    same_tokenizer: bool = False
    documents: int = 74
    epochs: int = 4
    width: int = WIDTH
    seed: int = 0


def texts(*parts: str, domain: str = DOMAIN) -> list[str]:
    """A domain's documents of some of the demo's corpora."""
    lines = (line for part in parts for line in (DEMO / "corpus" / f"{part}.jsonl").read_text().splitlines())
    return [row["text"] for row in map(json.loads, lines) if row["domain"] == domain]


# Models: the demo's, and those that differ from them in one thing.


def source_folder(point: Point) -> Path:
    if point.same_tokenizer:
        return _made(f"source-{TARGET}-{point.source_steps}", TARGET, DOMAIN, WIDTH, point.source_steps)
    if point.source_steps == SOURCE_STEPS:
        return DEMO / "models" / DOMAIN
    return _made(f"source-{DOMAIN}-{point.source_steps}", DOMAIN, DOMAIN, WIDTH, point.source_steps)


def target_folder(point: Point) -> Path:
    if point.width == WIDTH:
        return DEMO / "models" / TARGET
    return _made(f"target-{point.width}", TARGET, TARGET, point.width, TARGET_STEPS)


def _made(name: str, kind: str, domain: str, width: int, steps_: int) -> Path:
    """A model of the architecture and with the tokenizer of the demo's `kind`, trained on `domain`."""
    folder = WORK / "models" / name
    if folder.exists():
        return folder
    sys.path.insert(0, str(ROOT / "examples"))
    from tokenizers import Tokenizer

    import tiny_models
    from make_tiny import Recipe

    print(f"training {name}", flush=True)
    recipe = Recipe(width=width, steps=steps_)
    draft = WORK / "models" / f".{name}"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(DEMO / "models" / kind, draft, ignore=shutil.ignore_patterns("*.safetensors", "made.json"))
    tokenizer = Tokenizer.from_file(str(draft / "tokenizer.json"))
    model = tiny_models.build(kind, recipe, tokenizer, seed=0)
    tiny_models.train(model, tokenizer, texts(f"expert-{domain}", domain=domain), recipe, seed=0)
    tiny_models.save(model, draft)
    draft.rename(folder)
    return folder


# Evidence: a run's hops, in this process.


class _Client:
    """A source in this process, where a client is expected."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def compute_many(self, requests: Any, top_k: int, *_: Any) -> Iterator[list[Any]]:
        return (self._engine.compute(list(request), top_k) for request in requests)


@cache
def engine_of(folder: Path) -> TransformersEngine:
    return load_engine(str(folder))


def fused(point: Point) -> tuple[Run, Plan]:
    """A run whose training documents have their evidence; what the store has is not made again."""
    name = digest([point.source_steps, point.same_tokenizer, point.documents, point.width])[:12]
    folder = WORK / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = texts("fusion", "dev")[: point.documents]
    for file, documents in (("train", rows), ("held_out", texts("held_out"))):
        lines = (json.dumps({"text": text, "domain": DOMAIN}) + "\n" for text in documents)
        (folder / f"{file}.jsonl").write_text("".join(lines), encoding="utf-8")
    content = {
        "name": "when-fusing-pays",
        "target": {"model": str(target_folder(point))},
        "sources": [{"name": "source", "model": str(source_folder(point))}],
        "corpus": {
            "train": [{"path": "train.jsonl"}],
            "held_out": [{"path": "held_out.jsonl"}],
            "max_document_bytes": 500,
            "shard_bytes": 12_000,
        },
        "capture": {"top_k": 64},
        "training": {
            "clm_weight": CLM_WEIGHT,
            "sequence_length": 512,
            "batch_sequences": 4,
            "warmup_ratio": 0.05,
        },
        "registry": {"enabled": False},
        "services": {"store": str(WORK / "store")},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    run = open_run(folder / "run.yaml")
    publish_input(run)
    plan = _plan(run, point)
    client: Any = _Client(engine_of(source_folder(point)))
    for shard in range(plan.corpus_shards):
        task = ShardTask(Hop.CAPTURE, "source", shard)
        if run.store.find(plan.artefact(task)) is None:
            capture(run.store, plan, task, client)
    evaluation_baselines.make_missing(run, plan)
    return run, plan


def _plan(run: Run, point: Point) -> Plan:
    source, target = engine_of(source_folder(point)), engine_of(target_folder(point))
    for tokenizer in (source.tokenizer, target.tokenizer):
        if run.store.find(tokenizer_name(tokenizer.fingerprint)) is None:
            run.store.publish(tokenizer_name(tokenizer.fingerprint), tokenizer.definition().encode())
    planned = PlannedSource(
        name="source",
        model_fingerprint=source.model.fingerprint,
        tokenizer_fingerprint=source.tokenizer.fingerprint,
        vocabulary_size=source.model.vocabulary_size,
    )
    plan = Plan(
        run_id=run.run_id,
        corpus_digest=run.corpora.train.digest,
        corpus_shards=run.corpora.train.shards,
        target_tokenizer_fingerprint=target.tokenizer.fingerprint,
        sources=(planned,),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )
    run.store.write_note(plan_name(run.run_id), plan.model_dump(mode="json"))
    return plan
