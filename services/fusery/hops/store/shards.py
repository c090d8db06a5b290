"""Shards: Parquet files with one row per document, the form of everything between two hops.

Parquet with zstd, so that pandas, DuckDB and `datasets` open them (docs/store.md shows how). Ragged arrays are list
columns, flat within the file: numpy arrays go in and out by offsets, without a Python object per entry. The schema's
metadata says the kind, the format version and what the ids mean; another kind, version or fingerprint is refused.

A capture is what stays on disk for good, and k log-probabilities a token are half of it. Within a row they fall, so
the bits of their float format, read as integers, rise, and by little: their steps take two thirds of the room that the
values take (50 for 75 bytes a token at k = 64), lose nothing, and are a sum away. Frequent ids have short codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fusery.core.fusion import AlignedSource, Evidence
from fusery.core.topk import PAD, FloatArray, IntArray, TopK, VocabularyMap
from fusery.hops.store.bounded_table import most_bytes, read_table, texts_of
from fusery.runtime.errors import Corrupt, Mismatch
from fusery.runtime.text.json import parse_json

FORMAT_VERSION = 2
Meta = dict[str, Any]

_DICTIONARY = ("domain", "top_ids", "ids", "entries", "sources", "weights")
_ENCODINGS = {
    "byte_ends": "DELTA_BINARY_PACKED",
    "positions": "DELTA_BINARY_PACKED",
    # Bytes of numbers apart by their place: the first ones are alike.
    "top_log_prob_steps": "BYTE_STREAM_SPLIT",
    "log_probs": "BYTE_STREAM_SPLIT",
    "next_log_probs": "BYTE_STREAM_SPLIT",
}
_STEPS = {"float16": np.uint16, "float32": np.uint32}


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    doc_id: str
    domain: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class CapturedDocument:
    """A source's top-k over one document: tokens and byte ends int64 [T], top-k [T, K], next-token log-probs [T]."""

    doc_id: str
    token_ids_T: IntArray
    byte_ends_T: IntArray
    top: TopK
    next_log_probs_T: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class AlignedDocument:
    """A captured document at the target's positions; `target_tokens` is the number of target tokens."""

    doc_id: str
    domain: str
    target_tokens: int
    source: AlignedSource


@dataclass(frozen=True, slots=True, eq=False)
class FusedDocument:
    """What the trainer reads: the target's tokens int64 [N] and the evidence at its positions."""

    doc_id: str
    domain: str
    token_ids_N: IntArray
    evidence: Evidence


def write_corpus(documents: Sequence[CorpusDocument], meta: Meta) -> bytes:
    return _write("corpus", _texts(documents, "doc_id", "domain", "text"), meta)


def read_corpus(content: bytes) -> list[CorpusDocument]:
    table, _ = _read("corpus", content)
    rows = zip(*(texts_of(table, name) for name in ("doc_id", "domain", "text")), strict=True)
    return [CorpusDocument(*row) for row in rows]


def write_captured(documents: Sequence[CapturedDocument], meta: Meta, log_probs: str) -> bytes:
    """`log_probs`: float16 or float32, how the top-k's log-probabilities are kept."""
    columns = {
        **_texts(documents, "doc_id"),
        "token_ids": _lists([d.token_ids_T for d in documents], np.uint32),
        "byte_ends": _lists([d.byte_ends_T for d in documents], np.uint32),
        "next_log_probs": _lists([d.next_log_probs_T for d in documents], np.float32),
        "top_ids": _lists([d.top.ids_RK.ravel() for d in documents], np.uint32),
        "top_log_prob_steps": _lists([_steps(d.top.log_probs_RK, log_probs) for d in documents], _STEPS[log_probs]),
    }
    k = documents[0].top.k if documents else 1
    return _write("captured", columns, meta | {"top_k": k, "log_probs": log_probs})


def read_captured(content: bytes, expect: Meta | None = None) -> list[CapturedDocument]:
    table, meta = _read("captured", content, expect)
    k, log_probs = int(meta["top_k"]), meta["log_probs"]
    ids, ends = _arrays(table, "token_ids", np.int64), _arrays(table, "byte_ends", np.int64)
    following = _arrays(table, "next_log_probs", np.float32)
    top_ids = _arrays(table, "top_ids", np.int64)
    # All rows at once: a document has few of them, and numpy's price is by the call.
    steps = table["top_log_prob_steps"].combine_chunks().values.to_numpy(zero_copy_only=False)
    steps_RK = steps.reshape(-1, k)
    log_probs_RK = np.cumsum(steps_RK, axis=1, dtype=steps_RK.dtype).view(log_probs).astype(np.float32)
    top_log_probs = np.split(log_probs_RK, np.cumsum([len(one) for one in ids])[:-1])
    return [
        CapturedDocument(doc_id, ids[i], ends[i], TopK(top_ids[i].reshape(-1, k), top_log_probs[i]), following[i])
        for i, doc_id in enumerate(texts_of(table, "doc_id"))
    ]


def _steps(log_probs_RK: FloatArray, log_probs: str) -> npt.NDArray[Any]:
    """Flat: in each row the first number's bits, then what each adds to those before, modulo their width."""
    # A log-probability under -65504 is past float16 and becomes -inf: probability 0, which it is to any format.
    with np.errstate(over="ignore"):
        bits_RK = log_probs_RK.astype(log_probs).view(_STEPS[log_probs])
    steps_RK = bits_RK.copy()
    steps_RK[:, 1:] -= bits_RK[:, :-1]
    return steps_RK.ravel()


def write_aligned(documents: Sequence[AlignedDocument], meta: Meta) -> bytes:
    """A source's cost on each document stands in the column `quality`, as the first version called it."""
    sources = [d.source for d in documents]
    columns = {
        **_texts(documents, "doc_id", "domain"),
        "target_tokens": pa.array([d.target_tokens for d in documents], pa.uint32()),
        "quality": pa.array([s.cost for s in sources], pa.float64()),
        "positions": _lists([s.positions_R for s in sources], np.uint32),
        **_top_columns([s.top for s in sources]),
    }
    return _write("aligned", columns, meta)


def read_aligned(content: bytes, expect: Meta | None = None) -> list[AlignedDocument]:
    table, _ = _read("aligned", content, expect)
    positions, tops = _arrays(table, "positions", np.int64), _tops(table, most_bytes(content))
    named = (texts_of(table, name) for name in ("doc_id", "domain"))
    plain = zip(*named, *(table[name].to_pylist() for name in ("target_tokens", "quality")), strict=True)
    return [
        AlignedDocument(doc_id, domain, tokens, AlignedSource(positions[i], tops[i], cost))
        for i, (doc_id, domain, tokens, cost) in enumerate(plain)
    ]


def write_fused(documents: Sequence[FusedDocument], meta: Meta) -> bytes:
    evidence = [d.evidence for d in documents]
    columns = {
        **_texts(documents, "doc_id", "domain"),
        "token_ids": _lists([d.token_ids_N for d in documents], np.uint32),
        "positions": _lists([e.positions_R for e in evidence], np.uint32),
        "sources": _lists([e.sources_R for e in evidence], np.uint8),
        "weights": _lists([e.weights_R for e in evidence], np.float32),
        **_top_columns([e.top for e in evidence]),
    }
    return _write("fused", columns, meta)


def fused_facts(documents: Sequence[FusedDocument]) -> Meta:
    """For the entry of a fused shard, what a training asks before it reads any: how many tokens each document has, and
    the largest token id and number of a source (−1: none), each with the document's id.
    """
    return {
        "document_tokens": [len(d.token_ids_N) for d in documents],
        "largest_token_id": _largest((d.doc_id, int(d.token_ids_N.max(initial=-1))) for d in documents),
        "largest_source": _largest((d.doc_id, int(d.evidence.sources_R.max(initial=-1))) for d in documents),
        "longest": _largest((d.doc_id, len(d.token_ids_N)) for d in documents),
    }


def _largest(found: Iterable[tuple[str, int]]) -> tuple[str, int]:
    return max(found, key=lambda one: one[1], default=("", -1))


def read_fused(content: bytes, expect: Meta | None = None) -> list[FusedDocument]:
    table, _ = _read("fused", content, expect)
    token_ids, positions = _arrays(table, "token_ids", np.int64), _arrays(table, "positions", np.int64)
    sources, weights = _arrays(table, "sources", np.int64), _arrays(table, "weights", np.float32)
    tops = _tops(table, most_bytes(content))
    plain = zip(texts_of(table, "doc_id"), texts_of(table, "domain"), strict=True)
    return [
        FusedDocument(doc_id, domain, token_ids[i], Evidence(positions[i], sources[i], weights[i], tops[i]))
        for i, (doc_id, domain) in enumerate(plain)
    ]


def write_vocabulary_map(vocabulary: VocabularyMap, meta: Meta) -> bytes:
    columns = {
        "cell_of_source": _lists([vocabulary.cell_of_source_V], np.int32),
        "cell_of_target": _lists([vocabulary.cell_of_target_V], np.int32),
        "cells": pa.array([vocabulary.cells], pa.int64()),
    }
    return _write("vocabulary-map", columns, meta)


def read_vocabulary_map(content: bytes, expect: Meta | None = None) -> VocabularyMap:
    table, _ = _read("vocabulary-map", content, expect)
    source, target = _arrays(table, "cell_of_source", np.int64)[0], _arrays(table, "cell_of_target", np.int64)[0]
    return VocabularyMap(source, target, table["cells"][0].as_py())


def _top_columns(tops: Sequence[TopK]) -> dict[str, pa.Array]:
    """Ragged top-k: entries of each row (uint16), then the present entries of all rows, flat."""
    present = [top.ids_RK != PAD for top in tops]
    return {
        "entries": _lists([mask.sum(axis=1) for mask in present], np.uint16),
        "ids": _lists([top.ids_RK[mask] for top, mask in zip(tops, present, strict=True)], np.uint32),
        "log_probs": _lists([top.log_probs_RK[mask] for top, mask in zip(tops, present, strict=True)], np.float32),
    }


def _tops(table: pa.Table, most: int) -> list[TopK]:
    """The rows, padded to the widest one.

    Raises:
        Corrupt: padded they take over `most` bytes (one wide row among many), or there are not as many as it says.
    """
    entries = _arrays(table, "entries", np.int64)
    k = max((int(counts.max()) for counts in entries if len(counts)), default=0)
    padded = sum(map(len, entries)) * k * (np.dtype(np.int64).itemsize + np.dtype(np.float32).itemsize)
    if padded > most:
        raise Corrupt(f"a shard whose rows of up to {k} entries unpack to {padded} bytes, at most {most} are read")
    flat = list(zip(entries, _arrays(table, "ids", np.int64), _arrays(table, "log_probs", np.float32), strict=True))
    if any(not int(counts.sum()) == len(ids) == len(log_probs) for counts, ids, log_probs in flat):
        raise Corrupt("a shard whose rows have other numbers of entries than it says")
    return [_padded(counts, ids, log_probs, k) for counts, ids, log_probs in flat]


def _padded(counts: IntArray, ids: IntArray, log_probs: FloatArray, k: int) -> TopK:
    present = np.arange(k) < counts[:, None]
    ids_RK, log_probs_RK = np.full(present.shape, PAD, np.int64), np.full(present.shape, -np.inf, np.float32)
    ids_RK[present], log_probs_RK[present] = ids, log_probs
    return TopK(ids_RK, log_probs_RK)


def _texts(documents: Sequence[Any], *names: str) -> dict[str, pa.Array]:
    return {name: pa.array([getattr(document, name) for document in documents], pa.string()) for name in names}


def _lists(arrays: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> pa.Array:
    """A list column from one 1-D array per document."""
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int64)
    values = np.concatenate(arrays).astype(dtype) if len(arrays) else np.zeros(0, dtype)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def _arrays(table: pa.Table, column: str, dtype: npt.DTypeLike) -> list[npt.NDArray[Any]]:
    """One 1-D array per document of a list column."""
    lists = table[column].combine_chunks()
    values = lists.values.to_numpy(zero_copy_only=False).astype(dtype)
    return np.split(values, lists.offsets.to_numpy()[1:-1]) if len(lists) else []


def _write(kind: str, columns: dict[str, pa.Array], meta: Meta) -> bytes:
    header = {"kind": kind, "format_version": FORMAT_VERSION, **meta}
    table = pa.table(columns).replace_schema_metadata({"fusery": json.dumps(header, sort_keys=True)})
    sink = pa.BufferOutputStream()
    paths = {name: f"{name}.list.element" if pa.types.is_large_list(c.type) else name for name, c in columns.items()}
    # One row group: a shard is read whole; the same rows give the same bytes. Higher levels of zstd than its first save
    # 1 or 2 % and cost up to three times the time.
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=max(1, table.num_rows),
        use_dictionary=[paths[name] for name in _DICTIONARY if name in paths],
        # A vocabulary of 2 million ids; the default gives up at 260,000.
        dictionary_pagesize_limit=1 << 23,
        column_encoding={paths[name]: encoding for name, encoding in _ENCODINGS.items() if name in paths},
        write_statistics=False,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _read(kind: str, content: bytes, expect: Meta | None = None) -> tuple[pa.Table, Meta]:
    """The table and its header.

    Raises:
        Corrupt: not a Parquet file of fusery's.
        Mismatch: another kind or format version, or a header field that is not as in `expect`.
    """
    try:
        table = read_table(content)
        header: Meta = parse_json(table.schema.metadata[b"fusery"])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"not a {kind} shard: {error}") from error
    for key, wanted in ({"kind": kind, "format_version": FORMAT_VERSION} | (expect or {})).items():
        if header.get(key) != wanted:
            raise Mismatch(
                f"{kind} shard: {key} is {header.get(key)!r}, expected {wanted!r}; make it again for this run"
            )
    return table, header


def evidence_rows(documents: Iterable[FusedDocument]) -> int:
    """Number of evidence rows in all documents."""
    return sum(len(document.evidence.positions_R) for document in documents)
