"""The notes beside a shard: counts of hand-made documents, and that notes of shards add up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.core import vocab
from fusery.core.coverage import BINS, Counts, Image, TokenImages, images_of
from fusery.core.fusion import Evidence
from fusery.core.rules import Vocabulary
from fusery.core.tokens import TokenizedText
from fusery.core.topk import TopK, VocabularyMap, empty
from fusery.hops import facts
from fusery.hops.plan import Plan, PlannedSource
from fusery.hops.store.shards import FusedDocument
from support.models.pico_models import pico_byte_tokenizer

IMAGES = images_of(
    VocabularyMap(np.asarray([0, 1, 2, -1]), np.asarray([0, 1, 2, 2]), 3),
    [b"a", b"b", b"c", None],
    [b"a", b"x", b"c", b"d"],
)
"""Token 0 has the same bytes, 1 others, 2 a cell of two tokens, 3 none."""


def text(tokens: int, stands: list[bool] | None = None) -> TokenizedText:
    ends = np.arange(1, tokens + 1)
    return TokenizedText(np.zeros(tokens, np.int64), ends, stands_T=None if stands is None else np.asarray(stands))


def rows(*probabilities: tuple[float, float, float, float]) -> TopK:
    """Rows over the tokens 0 to 3."""
    log_probs = np.log(np.asarray(probabilities, np.float32)).reshape(-1, 4)
    return TopK(np.tile(np.arange(4), (len(log_probs), 1)), log_probs)


def plan(*sources: str) -> Plan:
    return Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=1,
        target_tokenizer_fingerprint="t" * 64,
        sources=tuple(
            PlannedSource(name=name, model_fingerprint=name * 64, tokenizer_fingerprint="f" * 64, vocabulary_size=9)
            for name in sources
        ),
        capture=CaptureSpec(),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )


def fused(domain: str, tokens: int, positions: list[int], sources: list[int], weights: list[float]) -> FusedDocument:
    evidence = Evidence(
        np.asarray(positions, np.int64),
        np.asarray(sources, np.int64),
        np.asarray(weights, np.float32),
        empty(len(positions), 1),
    )
    return FusedDocument("d", domain, np.zeros(tokens, np.int64), evidence)


def through_json(noted: facts.Facts) -> dict[str, Counts]:
    return facts.counts_of(json.loads(json.dumps(noted)))


def test_a_document_is_counted_by_its_domain() -> None:
    tally = facts.Tally(IMAGES)
    tally.add("x", text(7), text(5), rows((0.5, 0.25, 0.125, 0.0625), (0.125, 0.125, 0.53125, 0.125)))
    tally.add("y", text(2), text(3), rows())
    assert tally.facts()["tokens"] == 8
    found = through_json(tally.facts())
    assert list(found) == ["x", "y"]
    x, y = found.values()
    assert (x.documents, x.positions, x.with_evidence, x.source_rows) == (1, 4, 2, 7)
    assert x.mass_I.tolist() == pytest.approx([0.625, 0.375, 0.65625, 0.1875], abs=1e-5)
    assert x.cell_tokens == pytest.approx(1.3125, abs=1e-5)
    assert [(bin_, int(n)) for bin_, n in enumerate(x.kept_B) if n] == [(78, 1), (87, 1)]
    assert (y.documents, y.positions, y.with_evidence, y.captured_mass, y.kept_B.sum()) == (1, 2, 0, 0, 0)


def test_rows_that_do_not_stand_are_counted_on_either_side() -> None:
    tally = facts.Tally(IMAGES)
    tally.add("x", text(3, [True, False, False]), text(2), rows())
    tally.add("x", text(2), text(4, [False, True, True, True]), rows())
    found = through_json(tally.facts())["x"]
    assert (found.source_astray, found.target_astray, found.source_rows, found.documents) == (2, 1, 5, 2)


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_document_too_short_to_predict_anything_has_no_position(tokens: int) -> None:
    tally = facts.Tally(IMAGES)
    tally.add("x", text(tokens), text(tokens), rows())
    assert through_json(tally.facts())["x"].positions == 0


def test_duplicates_are_dropped_where_the_projection_drops_them() -> None:
    both_in_one = TokenImages(IMAGES.image_V, np.asarray([0, 0, 2, -1, -1]), IMAGES.cell_tokens_V)
    tally = facts.Tally(both_in_one, drops_duplicates=True)
    tally.add("x", text(2), text(2), rows((0.5, 0.25, 0.125, 0.0625)))
    found = through_json(tally.facts())["x"]
    assert found.mass_I[Image.NO_CELL] == pytest.approx(0.3125, abs=1e-5)


probabilities = st.tuples(*[st.floats(0.001, 0.25)] * 4)


@given(
    documents=st.lists(st.tuples(st.sampled_from("xy"), st.lists(probabilities, max_size=4)), max_size=6),
    cut=st.integers(0, 6),
)
def test_the_notes_of_two_shards_add_up_to_that_of_one(documents: list[tuple[str, list[Any]]], cut: int) -> None:
    found = []
    for parts in ([documents], [documents[:cut], documents[cut:]]):
        total: dict[str, Counts] = {}
        for part in parts:
            tally = facts.Tally(IMAGES)
            for domain, of_rows in part:
                tally.add(domain, text(6), text(6), rows(*of_rows))
            for domain, counts in through_json(tally.facts()).items():
                total[domain] = counts.plus(total[domain]) if domain in total else counts
        found.append(total)
    whole, added = found
    assert whole.keys() == added.keys()
    for domain, counts in whole.items():
        assert added[domain].kept_B.tolist() == counts.kept_B.tolist()
        assert added[domain].positions == counts.positions
        np.testing.assert_allclose(added[domain].mass_I, counts.mass_I, atol=1e-5)


def test_a_histogram_of_another_resolution_is_refused() -> None:
    tally = facts.Tally(IMAGES)
    tally.add("x", text(2), text(2), rows())
    noted = tally.facts()
    noted["domains"]["x"]["kept_histogram"] = [0] * 10
    with pytest.raises(ValueError, match=f"10 bins, expected {BINS}"):
        facts.counts_of(noted)


def test_images_are_found_once_per_map() -> None:
    source, target = pico_byte_tokenizer("byte_level"), pico_byte_tokenizer("unigram")
    vocabulary = vocab.build(Vocabulary.PARTITION, source, target)
    images = facts.token_images(vocabulary, source, target)
    assert facts.token_images(vocabulary, source, target) is images
    assert len(images.image_V) == source.size + 1


def test_a_fused_shard_notes_positions_evidence_and_weights_by_domain() -> None:
    noted = facts.of_fused(
        [
            fused("x", 5, [0, 2, 3], [0, 1, 1], [1, 1, 1]),
            fused("x", 3, [], [], []),
            # Averaged: two rows at one position.
            fused("y", 3, [1, 1], [0, 1], [0.25, 0.75]),
        ],
        plan("a", "b", "c"),
    )
    assert noted == {
        "tokens": 11,
        "domains": {
            "x": {"positions": 6, "with_evidence": 3, "weights": {"a": 1.0, "b": 2.0, "c": 0.0}},
            "y": {"positions": 2, "with_evidence": 1, "weights": {"a": 0.25, "b": 0.75, "c": 0.0}},
        },
    }
