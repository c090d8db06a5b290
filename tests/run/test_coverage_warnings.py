"""Warnings of low coverage: which figures are under their floors, and the likely cause of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from fusery.config.sections import CoverageSpec
from fusery.core import vocab
from fusery.core.alignment import boundary
from fusery.core.coverage import Counts, Image, nothing
from fusery.core.rules import Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import empty
from fusery.hops.facts import Tally, counts_of, token_images
from fusery.hops.names import tokenizer_name
from fusery.hops.plan import Hop, Plan
from fusery.hops.store.store import Store
from fusery.run.coverage import normalizers as normalizers_of
from fusery.run.coverage import warnings_of, why_few_positions, why_little_mass
from support.models.pico_models import pico_byte_tokenizer
from support.runs.coverage_notes import aligned_note, plan_of, publish

BYTE_LEVEL, WITH_BOS = pico_byte_tokenizer("byte_level"), pico_byte_tokenizer("sentencepiece")


def changing(kind: str, normalizer: normalizers.Normalizer) -> ByteTokenizer:
    backend = Tokenizer.from_str(json.dumps(json.loads(pico_byte_tokenizer(kind).definition())["backend"]))
    backend.normalizer = normalizer
    return ByteTokenizer(backend)


def counts(**changes: Any) -> Counts:
    """100 positions of one document, 10 of them with evidence, 90 rows of the source."""
    empty = nothing()
    plain = {"documents": 1, "positions": 100, "with_evidence": 10, "source_rows": 90}
    fields = {name: getattr(empty, name) for name in Counts.__slots__} | plain | changes
    return Counts(**fields)


def masses(**of_image: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray([of_image.get(image.name.lower(), 0.0) for image in Image])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def begun(store: Store, **sections: Any) -> Plan:
    """A plan whose tokenizers are in the store."""
    plan = plan_of(**sections)
    for tokenizer in (BYTE_LEVEL, WITH_BOS):
        store.publish(tokenizer_name(tokenizer.fingerprint), tokenizer.definition().encode())
    return plan


def test_every_source_and_domain_under_a_floor_is_named_with_figure_and_floor(store: Store) -> None:
    plan = begun(store, shards=1)
    low, good = aligned_note(100, [0.9] * 40), aligned_note(100, [0.9] * 60)
    publish(store, plan, Hop.ALIGN, "a", [{"x": low, "y": good}])
    publish(store, plan, Hop.ALIGN, "b", [{"x": aligned_note(100, [0.3] * 90), "y": low}])
    found = warnings_of(store, plan, CoverageSpec())
    assert [(w.source, w.domain, w.figure) for w in found] == [
        ("a", "x", "positions"),
        ("b", "x", "kept_mass"),
        ("b", "y", "positions"),
    ]
    start = (
        "source a, domain x: evidence at 40.0% of the target's positions, under coverage.positions_floor 50.0%; likely"
    )
    assert found[0].text.startswith(f"{start}: ")
    start = "source b, domain x: 30.0% of the mass is kept on average, under coverage.mass_floor 50.0%; likely"
    assert found[1].text.startswith(f"{start}: ")


@pytest.mark.parametrize(("floor", "warns"), [(0.0, False), (0.4, False), (0.41, True), (1.0, True)])
def test_only_what_is_under_its_floor_warns(store: Store, floor: float, warns: bool) -> None:
    plan = begun(store, shards=1)
    publish(store, plan, Hop.ALIGN, "a", [{"x": aligned_note(10, [1.0] * 4)}])
    publish(store, plan, Hop.ALIGN, "b", [{"x": aligned_note(10, [1.0] * 10)}])
    found = warnings_of(store, plan, CoverageSpec(positions_floor=floor))
    assert bool(found) is warns


def test_text_that_no_source_covers_warns_and_divides_nothing(store: Store) -> None:
    plan = begun(store, shards=1)
    for source in "ab":
        publish(store, plan, Hop.ALIGN, source, [{"x": aligned_note(50, []), "one token": aligned_note(0, [])}])
    found = warnings_of(store, plan, CoverageSpec())
    assert [(w.source, w.domain, w.figure, w.value) for w in found] == [
        ("a", "x", "positions", 0.0),
        ("b", "x", "positions", 0.0),
    ]


def test_before_any_shard_is_aligned_there_is_nothing_to_warn_of(store: Store) -> None:
    assert warnings_of(store, plan_of(), CoverageSpec()) == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_tokenizer_that_changes_the_text_is_named_with_what_it_does(side: str) -> None:
    lower = changing("byte_level", normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]))
    sides = (lower, BYTE_LEVEL) if side == "source" else (BYTE_LEVEL, lower)
    cause = why_few_positions(counts(**{f"{side}_astray": 60}), Positions.BOUNDARY, 0.5, *sides)
    assert f"the {side}'s tokenizer changes the text (NFKC, Lowercase), so 60 of its rows" in cause
    assert "normalise the corpus" in cause


def test_a_few_rows_astray_are_not_the_cause() -> None:
    for few in (counts(source_astray=10), counts(source_rows=0)):
        cause = why_few_positions(few, Positions.BOUNDARY, 0.5, BYTE_LEVEL, BYTE_LEVEL)
        assert "changes the text" not in cause


def test_short_documents_of_a_source_without_bos_are_the_cause() -> None:
    few = counts(documents=80, source_rows=95)
    cause = why_few_positions(few, Positions.BOUNDARY, 0.5, BYTE_LEVEL, WITH_BOS)
    assert "the target begins every text with BOS and the source does not" in cause
    assert "80 documents" in cause
    for sides in ((WITH_BOS, WITH_BOS), (BYTE_LEVEL, BYTE_LEVEL), (WITH_BOS, BYTE_LEVEL)):
        assert "BOS" not in why_few_positions(few, Positions.BOUNDARY, 0.5, *sides)


def test_longer_tokens_than_the_targets_are_the_cause() -> None:
    cause = why_few_positions(counts(source_rows=30), Positions.BOUNDARY, 0.5, BYTE_LEVEL, BYTE_LEVEL)
    assert "the source cuts the text into longer tokens, 30 for 100 positions" in cause


@pytest.mark.parametrize("rule", [Positions.DTW, Positions.REFERENCE])
def test_a_rule_that_takes_fewer_positions_is_the_cause(rule: Positions) -> None:
    cause = why_few_positions(counts(), rule, 0.5, BYTE_LEVEL, BYTE_LEVEL)
    assert f"alignment.positions is {rule.value}" in cause
    assert "boundary takes all" in cause


def test_what_nothing_else_explains_is_other_splitting() -> None:
    assert "split white space" in why_few_positions(counts(), Positions.BOUNDARY, 0.5, BYTE_LEVEL, WITH_BOS)


def test_little_mass_is_for_k_or_for_the_map_whichever_lost_more() -> None:
    flat = counts(mass_I=masses(same_bytes=3.0, no_cell=1.0))
    assert "the 10 entries captured at a position hold only 40.0%" in why_little_mass(flat, Vocabulary.EXACT, 10)
    assert "raise capture.top_k" in why_little_mass(flat, Vocabulary.EXACT, 10)
    dropped = counts(mass_I=masses(same_bytes=3.0, no_cell=6.0))
    assert "(exact) has no cell for 66.7% of the captured mass" in why_little_mass(dropped, Vocabulary.EXACT, 10)


@pytest.mark.parametrize("rule", list(Vocabulary))
def test_a_map_that_drops_mass_is_told_how_to_mend(rule: Vocabulary) -> None:
    cause = why_little_mass(counts(mass_I=masses(no_cell=10.0)), rule, 10)
    assert ("alignment.vocabulary: partition" in cause) == (rule in (Vocabulary.EXACT, Vocabulary.MIN_ED))


def test_k_is_never_said_to_be_over_the_vocabulary(store: Store) -> None:
    plan = begun(store, shards=1, top_k=4096)
    publish(store, plan, Hop.ALIGN, "a", [{"x": aligned_note(10, [0.1] * 10)}])
    [warning] = warnings_of(store, plan, CoverageSpec())
    assert "the 99 entries captured" in warning.text


def test_a_space_marker_is_no_change_of_the_text() -> None:
    assert normalizers_of(BYTE_LEVEL) == []
    marked = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    assert normalizers_of(changing("sentencepiece", marked)) == []
    assert normalizers_of(changing("byte_level", normalizers.NFC())) == ["NFC"]


def test_a_lower_casing_source_is_found_out_from_its_own_tokens() -> None:
    lower = changing("byte_level", normalizers.Lowercase())
    text = "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG. " * 3
    source, target = lower.tokenize(text), BYTE_LEVEL.tokenize(text)
    pairs = boundary(source, target)
    tally = Tally(token_images(vocab.build(Vocabulary.PARTITION, lower, BYTE_LEVEL), lower, BYTE_LEVEL))
    tally.add("x", source, target, empty(len(source.ids_T), 1).take(pairs.source_rows_R))
    found = counts_of(tally.facts())["x"]
    assert found.with_evidence < 0.5 * found.positions
    assert "(Lowercase)" in why_few_positions(found, Positions.BOUNDARY, 0.5, lower, BYTE_LEVEL)
