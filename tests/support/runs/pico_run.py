"""Whole runs of pico models: a folder with YAML, corpora of two domains and checkpoints, all that `fusery run` needs.

    file = write_run(tmp_path)                                             # a Llama target and two sources
    file = write_run(tmp_path, sources={"own": ("gpt2", "byte_level")}, training={"clm_weight": 0.5})
    file = write_run(tmp_path, registry={"enabled": True})

Everything lies in the folder and is small: `models/` (copies, so a test may break them), `corpus/`, `store/`.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from support.models.pico_models import CONTEXT_LENGTH, pico_model

Kind = tuple[str, str]
"""Architecture and kind of tokenizer, of `pico_models`."""

TARGET: Kind = ("llama", "sentencepiece")
SOURCES: Mapping[str, Kind] = {"prose": ("llama", "sentencepiece"), "code": ("gpt_neox", "byte_level")}
DOMAINS = ("prose", "code")
TRAIN_DOCUMENTS, HELD_OUT_DOCUMENTS = 24, 12
MAX_DOCUMENT_BYTES = 240

_SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "corpus": {
        "train": [{"path": "corpus/train.jsonl"}],
        "held_out": [{"path": "corpus/held_out.jsonl"}],
        "max_document_bytes": MAX_DOCUMENT_BYTES,
        "shard_bytes": 1250,
    },
    "capture": {"top_k": 8, "batch_bytes": 1000},
    "training": {
        "clm_weight": 0.5,
        "sequence_length": CONTEXT_LENGTH,
        "batch_sequences": 2,
        "learning_rate": 1.0e-3,
        "warmup_ratio": 0.05,
    },
    "registry": {"enabled": False},
    "services": {"store": "store", "workers": 1, "threads": 1},
}

_THINGS = ("fox", "dog", "source", "target", "model", "language", "token", "cup", "jug", "café owner", "distribution")
_DOES = ("jumps over", "merges", "reads", "keeps", "follows", "pays for", "packs", "aligns with")
_HOW = ("lazy", "quick", "brown", "large", "several", "naïve", "probable", "liquor")


def write_run(
    folder: Path,
    target: Kind = TARGET,
    sources: Mapping[str, Kind] | Sequence[Mapping[str, Any]] = SOURCES,
    **sections: Any,
) -> Path:
    """The YAML of a complete run in `folder`. `sources`: kinds by name, or the entries of the YAML as they shall be.

    `sections` are merged into those of the YAML.
    """
    kinds = sources if isinstance(sources, Mapping) else {}
    for name, (architecture, tokenizer) in {"target": target, **kinds}.items():
        shutil.copytree(pico_model(architecture, tokenizer), folder / "models" / name)
    write_corpus(folder / "corpus/train.jsonl", documents(TRAIN_DOCUMENTS, seed=1))
    write_corpus(folder / "corpus/held_out.jsonl", documents(HELD_OUT_DOCUMENTS, seed=2))
    content: dict[str, Any] = {
        "name": "pico",
        "target": {"model": "models/target"},
        "sources": [{"name": name, "model": f"models/{name}"} for name in kinds] or list(sources),
    }
    for name in [*_SECTIONS, *(name for name in sections if name not in _SECTIONS)]:
        given = sections.get(name, {})
        content[name] = {**_SECTIONS.get(name, {}), **given} if isinstance(given, Mapping) else given
    # Nobody knows the licence of a model that is served elsewhere.
    served = [str(source["name"]) for source in content["sources"] if "address" in source or ":" in source["model"]]
    if served:
        content["registry"] = {"accept_licenses": served} | content["registry"]
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def write_corpus(path: Path, rows: Iterator[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def documents(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Different documents of 100 to MAX_DOCUMENT_BYTES bytes, of each domain in turn."""
    chance = random.Random(seed)
    for number in range(count):
        domain = DOMAINS[number % len(DOMAINS)]
        text = ""
        while len(text.encode()) < 100:
            text += _sentence(chance) if domain == "prose" else _function(chance)
        yield {"text": text, "domain": domain}


def _sentence(chance: random.Random) -> str:
    start = chance.choice(("The", "Each", "No", "This"))
    one, other = chance.sample(_THINGS, 2)
    amount = f"{chance.randrange(1, 99)}.{chance.randrange(10, 99)}"
    return f"{start} {chance.choice(_HOW)} {one} {chance.choice(_DOES)} the {other} in {amount} steps.\n"


def _function(chance: random.Random) -> str:
    name, of = (chance.choice(("fuse", "align", "read", "pack", "keep")) for _ in range(2))
    call = f"{chance.choice(('source', 'target'))}.{of}({chance.randrange(1000)})"
    return f"def {name}_{of}(sources, target):\n    for source in sources:\n        yield {call}\n"
