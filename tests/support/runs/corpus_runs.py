"""Runs of which only the corpus matters: their YAML, files, and the documents that come out of them.

run = run_of(tmp_path, [{"path": "train.jsonl"}], max_document_bytes=64)
write_rows(tmp_path / "train.jsonl", {"text": "a"}, {"text": "b"})
train, held_out, corpora = published(run, Store(str(tmp_path / "store")))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusery.config.file import RunFile
from fusery.config.run import RunConfig
from fusery.hops.store.shards import CorpusDocument
from fusery.hops.store.store import Store
from fusery.run.corpus.corpora import open_corpora, publish_corpora
from fusery.run.corpus.scan import Corpora

Documents = list[CorpusDocument]


def run_of(
    folder: Path, train: Sequence[dict[str, Any]] = ({"path": "train.jsonl"},), seed: int = 0, **corpus: Any
) -> RunFile:
    held_out = {} if "held_out_share" in corpus else {"held_out": [{"path": "held_out.jsonl"}]}
    fields = {"train": list(train), **held_out, **corpus}
    sources = [{"name": "s", "model": "m"}]
    content = {"name": "x", "seed": seed, "target": {"model": "t"}, "sources": sources, "corpus": fields}
    return RunFile(RunConfig.model_validate(content), folder / "run.yaml")


def write_rows(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def published(run: RunFile, store: Store) -> tuple[Documents, Documents, Corpora]:
    """The documents of both sides as they lie in the store."""
    corpora = open_corpora(run, store)
    publish_corpora(run, corpora, store)
    return list(corpora.train.read(store)), list(corpora.held_out.read(store)), corpora


def documents_of(run: RunFile) -> tuple[Documents, Documents, Corpora]:
    """As `published`, in a store of its own beside the YAML."""
    return published(run, Store(str(run.path.parent / "own-store")))
