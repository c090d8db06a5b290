from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.fusion import AlignedSource, Evidence
from fusery.core.topk import PAD, TopK, VocabularyMap
from fusery.hops.store import shards
from fusery.hops.store.shards import AlignedDocument, CapturedDocument, CorpusDocument, FusedDocument
from fusery.runtime.errors import Corrupt, Mismatch
from support.core.strategies import texts, top_ks


def assert_same_top(one: TopK, other: TopK) -> None:
    """Equal entries; the width may differ by absent entries."""
    k = max(one.k, other.k)
    for a, b in zip(_wide(one, k), _wide(other, k), strict=True):
        np.testing.assert_array_equal(a, b)


def _wide(top: TopK, k: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    add = ((0, 0), (0, k - top.k))
    return np.pad(top.ids_RK, add, constant_values=PAD), np.pad(top.log_probs_RK, add, constant_values=-np.inf)


def captured(doc_id: str, tokens: int, k: int, seed: int = 0) -> CapturedDocument:
    random = np.random.default_rng(seed)
    log_probs = np.sort(np.log(random.dirichlet(np.ones(k + 1), tokens)[:, :k]), axis=1)[:, ::-1].astype(np.float32)
    top = TopK(random.integers(0, 1000, (tokens, k)), np.ascontiguousarray(log_probs))
    ends = np.cumsum(random.integers(0, 5, tokens))
    return CapturedDocument(doc_id, random.integers(0, 9, tokens), ends, top, -random.random(tokens).astype(np.float32))


@given(documents=st.lists(st.tuples(texts, texts, texts), max_size=5))
def test_a_corpus_is_read_back_as_it_was(documents: list[tuple[str, str, str]]) -> None:
    rows = [CorpusDocument(*document) for document in documents]
    assert shards.read_corpus(shards.write_corpus(rows, {})) == rows


@pytest.mark.parametrize("log_probs", ["float16", "float32"])
def test_captures_are_read_back_as_precisely_as_they_were_kept(log_probs: str) -> None:
    documents = [captured("a", 5, 3), captured("b", 1, 3, seed=1), captured("c", 9, 3, seed=2)]
    back = shards.read_captured(shards.write_captured(documents, {"tokenizer": "t"}, log_probs), {"tokenizer": "t"})
    for one, other in zip(documents, back, strict=True):
        assert one.doc_id == other.doc_id
        np.testing.assert_array_equal(one.token_ids_T, other.token_ids_T)
        np.testing.assert_array_equal(one.byte_ends_T, other.byte_ends_T)
        np.testing.assert_array_equal(one.next_log_probs_T, other.next_log_probs_T)
        np.testing.assert_array_equal(one.top.ids_RK, other.top.ids_RK)
        expected = one.top.log_probs_RK.astype(log_probs).astype(np.float32)
        np.testing.assert_array_equal(expected, other.top.log_probs_RK)


@given(tops=st.lists(top_ks(), min_size=1, max_size=4))
def test_ragged_rows_are_read_back_as_they_were(tops: list[TopK]) -> None:
    aligned = [
        AlignedDocument(f"d{i}", "x", 9, AlignedSource(np.arange(top.rows), top, 1.5)) for i, top in enumerate(tops)
    ]
    for one, other in zip(aligned, shards.read_aligned(shards.write_aligned(aligned, {})), strict=True):
        assert (one.doc_id, one.domain, one.target_tokens) == (other.doc_id, other.domain, other.target_tokens)
        assert one.source.cost == other.source.cost
        np.testing.assert_array_equal(one.source.positions_R, other.source.positions_R)
        assert_same_top(one.source.top, other.source.top)


@given(top=top_ks())
def test_fused_documents_are_read_back_as_they_were(top: TopK) -> None:
    rows = np.arange(top.rows)
    evidence = Evidence(rows, rows % 3, np.full(top.rows, 0.5, np.float32), top)
    document = FusedDocument("d", "x", np.arange(20), evidence)
    [back] = shards.read_fused(shards.write_fused([document], {}))
    np.testing.assert_array_equal(back.token_ids_N, document.token_ids_N)
    np.testing.assert_array_equal(back.evidence.positions_R, evidence.positions_R)
    np.testing.assert_array_equal(back.evidence.sources_R, evidence.sources_R)
    np.testing.assert_array_equal(back.evidence.weights_R, evidence.weights_R)
    assert_same_top(back.evidence.top, top)


def test_a_vocabulary_map_is_read_back_as_it_was() -> None:
    vocabulary = VocabularyMap(np.array([0, PAD, 1]), np.array([1, 0, PAD, 1]), 2)
    back = shards.read_vocabulary_map(shards.write_vocabulary_map(vocabulary, {}))
    np.testing.assert_array_equal(back.cell_of_source_V, vocabulary.cell_of_source_V)
    np.testing.assert_array_equal(back.cell_of_target_V, vocabulary.cell_of_target_V)
    assert back.cells == 2


def test_the_same_rows_give_the_same_bytes() -> None:
    documents = [captured("a", 5, 3), captured("b", 7, 3)]
    assert shards.write_captured(documents, {}, "float16") == shards.write_captured(documents, {}, "float16")


def test_any_parquet_reader_opens_a_shard() -> None:
    table = pq.read_table(io.BytesIO(shards.write_captured([captured("a", 5, 3)], {}, "float16")))
    frame = table.to_pandas()
    assert frame["doc_id"].tolist() == ["a"]
    assert len(frame["top_ids"][0]) == 15


def test_another_kind_version_or_fingerprint_is_refused_by_name() -> None:
    content = shards.write_captured([captured("a", 5, 3)], {"tokenizer": "one"}, "float16")
    with pytest.raises(Mismatch, match="kind is 'captured', expected 'aligned'"):
        shards.read_aligned(content)
    with pytest.raises(Mismatch, match="tokenizer is 'one', expected 'two'"):
        shards.read_captured(content, {"tokenizer": "two"})
    newer = shards.write_captured([captured("a", 5, 3)], {"format_version": 99}, "float16")
    with pytest.raises(Mismatch, match="format_version is 99"):
        shards.read_captured(newer)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all" * 10])
def test_bytes_that_are_no_shard_are_corrupt(content: bytes) -> None:
    with pytest.raises(Corrupt, match="not a corpus shard"):
        shards.read_corpus(content)


_LOG_PROBS = st.lists(st.lists(st.floats(-40, 0, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@given(_LOG_PROBS, st.sampled_from(["float16", "float32"]))
def test_captured_log_probs_come_back_bit_for_bit_in_their_number_format(rows: list[list[float]], form: str) -> None:
    log_probs = -np.sort(-np.asarray(rows, np.float32) + np.float32(2), axis=1)
    top = TopK(np.tile(np.arange(3), (len(rows), 1)), log_probs)
    vector = np.zeros(len(rows), np.int64)
    document = CapturedDocument("a", vector, vector, top, vector.astype(np.float32))
    [back] = shards.read_captured(shards.write_captured([document], {}, form))
    expected = log_probs.astype(form).astype(np.float32)
    np.testing.assert_array_equal(back.top.log_probs_RK.view(np.uint32), expected.view(np.uint32))


def test_probabilities_of_zero_and_one_and_too_small_ones_are_kept() -> None:
    log_probs = np.asarray([[0.0, -np.inf, -np.inf], [-1e-7, -20.5, -70000.0]], np.float32)
    vector = np.zeros(2, np.int64)
    document = CapturedDocument("a", vector, vector, TopK(np.zeros((2, 3), np.int64), log_probs), log_probs[:, 0])
    [back] = shards.read_captured(shards.write_captured([document], {}, "float16"))
    assert back.top.log_probs_RK[0].tolist() == [0, -np.inf, -np.inf]
    assert back.top.log_probs_RK[1, 1:].tolist() == [-20.5, -np.inf]
    assert -1.5e-7 < back.top.log_probs_RK[1, 0] <= -5e-8


@given(st.floats(-60000, -(2.0**-14), width=32))
def test_float16_errs_by_at_most_a_sixteenth_of_the_step_between_bfloat16_numbers(log_prob: float) -> None:
    error = abs(float(np.float16(log_prob)) - log_prob)
    step_of_bfloat16 = 2.0 ** (np.floor(np.log2(-log_prob)) - 7)
    assert error <= step_of_bfloat16 / 16


def test_float16_adds_less_noise_than_a_source_in_bfloat16_has() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 6, (200, 500))

    def log_softmax(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return values - np.log(np.exp(values).sum(axis=1, keepdims=True))

    exact = log_softmax(logits)
    top = np.argsort(-exact, axis=1)[:, :10]
    in_bfloat16 = log_softmax(torch.tensor(logits).to(torch.bfloat16).double().numpy())
    noise = np.abs(np.take_along_axis(in_bfloat16 - exact, top, axis=1)).mean()
    kept = np.take_along_axis(exact, top, axis=1)
    assert np.abs(kept.astype(np.float16) - kept).mean() < noise / 10


def with_entries(content: bytes, entries: list[int]) -> bytes:
    """An aligned shard of one document whose rows claim other numbers of entries."""
    table = pq.read_table(io.BytesIO(content))
    lists = pa.array([entries], pa.large_list(pa.uint16()))
    sink = io.BytesIO()
    pq.write_table(table.set_column(table.column_names.index("entries"), "entries", lists), sink)
    return sink.getvalue()


def test_one_wide_row_among_many_does_not_grow_the_memory() -> None:
    rows = 40_000
    top = TopK(np.zeros((rows, 1), np.int64), np.full((rows, 1), -1, np.float32))
    content = shards.write_aligned([AlignedDocument("d", "x", rows, AlignedSource(np.arange(rows), top, 1.0))], {})
    with pytest.raises(Corrupt, match=r"rows of up to 60000 entries unpack to 28800000000 bytes, at most 1073741824"):
        shards.read_aligned(with_entries(content, [60_000] + [1] * (rows - 1)))


@pytest.mark.parametrize("entries", [[1, 2], [1], [1, 1, 0, 1]])
def test_rows_with_other_numbers_of_entries_than_there_are_make_a_shard_corrupt(entries: list[int]) -> None:
    top = TopK(np.zeros((2, 1), np.int64), np.full((2, 1), -1, np.float32))
    content = shards.write_aligned([AlignedDocument("d", "x", 9, AlignedSource(np.arange(2), top, 1.0))], {})
    with pytest.raises(Corrupt, match="other numbers of entries"):
        shards.read_aligned(with_entries(content, entries))
