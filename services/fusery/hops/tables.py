"""What the hops share: the tokenizers and vocabulary maps of a store, and who hears what is worked on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from fusery.core import vocab
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import VocabularyMap
from fusery.hops.names import tokenizer_name
from fusery.hops.plan import Plan, PlannedSource
from fusery.hops.store import shards
from fusery.hops.store.store import Store
from fusery.runtime.errors import Corrupt

At = Callable[[Sequence[str]], None]
"""Is told the ids of the documents that are about to be worked on, so that a killed attempt can name them."""


def nowhere(_: Sequence[str]) -> None:
    pass


def load_tokenizer(store: Store, fingerprint: str) -> ByteTokenizer:
    """The tokenizer that `fingerprint` names, as its source or target gave it."""
    return _tokenizer(store.url, fingerprint)


@lru_cache(maxsize=16)
def _tokenizer(store_url: str, fingerprint: str) -> ByteTokenizer:
    name = tokenizer_name(fingerprint)
    tokenizer = ByteTokenizer.from_definition(Store(store_url).read(name).decode())
    if tokenizer.fingerprint != fingerprint:
        raise Corrupt(
            f"{name}: its fingerprint is {tokenizer.fingerprint[:16]}, the plan says {fingerprint[:16]}; it was "
            "changed, or this worker has another version of tokenizers than the run; it is published again",
            name,
        )
    return tokenizer


def load_vocabulary_map(store: Store, plan: Plan, source: PlannedSource) -> VocabularyMap:
    """The source's map to the target's vocabulary, built and stored if it is not there yet."""
    return _vocabulary_map(store.url, plan.model_dump_json(), source.name)


@lru_cache(maxsize=16)
def _vocabulary_map(store_url: str, plan_json: str, source_name: str) -> VocabularyMap:
    store, plan = Store(store_url), Plan.model_validate_json(plan_json)
    name, source = plan.vocabulary_map(source_name), plan.source(source_name)
    if store.find(name) is None:
        built = vocab.build(
            plan.alignment.vocabulary,
            load_tokenizer(store, source.tokenizer_fingerprint),
            load_tokenizer(store, plan.target_tokenizer_fingerprint),
            plan.alignment.positions,
        )
        meta = {"source": source.tokenizer_fingerprint, "target": plan.target_tokenizer_fingerprint}
        store.publish(name, shards.write_vocabulary_map(built, meta), {"cells": built.cells})
    return shards.read_vocabulary_map(store.read(name))
