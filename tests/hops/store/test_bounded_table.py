"""Small shards that stand for gigabytes: held once, or refused before they are read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.hops.store import bounded_table, shards
from fusery.hops.store.shards import CorpusDocument
from fusery.runtime.errors import Corrupt


def shard(kind: str, columns: dict[str, Any], **meta: object) -> bytes:
    header = json.dumps({"kind": kind, "format_version": shards.FORMAT_VERSION, **meta})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata({"fusery": header}), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def test_a_text_that_stands_in_every_row_is_held_once() -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["a" * 2**20]))
    content = shard("corpus", {"doc_id": pa.array(["x"] * 4096), "domain": pa.array(["d"] * 4096), "text": text})
    assert len(content) < 4096
    before = pa.total_allocated_bytes()
    documents = shards.read_corpus(content)
    assert pa.total_allocated_bytes() - before < 32 * 2**20
    assert len({id(document.text) for document in documents}) == 1
    assert len(documents) == 4096


@pytest.mark.parametrize("column", ["token_ids", "byte_ends", "next_log_probs", "top_ids", "top_log_prob_steps"])
def test_numbers_that_unpack_to_more_than_a_shard_holds_are_refused_unread(
    column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_table, "MOST_BYTES", 1 << 20)
    few, many = ([np.zeros(length, np.uint32)] for length in (4, 1_000_000))
    names = ("token_ids", "byte_ends", "next_log_probs", "top_ids", "top_log_prob_steps")
    columns = {name: pa.array(many if name == column else few) for name in names}
    content = shard("captured", {"doc_id": ["x"], **columns}, top_k=1, log_probs="float32")
    before = pa.total_allocated_bytes()
    with pytest.raises(Corrupt, match=r"a shard of \d+ bytes that unpacks to \d+, at most 1048576 are read"):
        shards.read_captured(content)
    assert pa.total_allocated_bytes() - before < 1 << 20


@pytest.mark.parametrize("column", ["doc_id", "domain", "text"])
def test_a_row_without_a_text_is_damage(column: str) -> None:
    columns = {name: pa.array([None if name == column else "x"], pa.string()) for name in ("doc_id", "domain", "text")}
    with pytest.raises(Corrupt, match=f"rows without {column}"):
        shards.read_corpus(shard("corpus", columns))


words = st.text(st.characters(codec="utf-8"), max_size=9)


@given(rows=st.lists(st.tuples(words, words, words), max_size=20), copies=st.integers(1, 4))
def test_texts_come_back_as_they_were_written(rows: list[tuple[str, str, str]], copies: int) -> None:
    documents = [CorpusDocument(*row) for row in rows] * copies
    assert shards.read_corpus(shards.write_corpus(documents, {"corpus": "c"})) == documents
