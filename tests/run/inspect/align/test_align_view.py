"""What is compared: the same evidence, cells and masses as the align hop gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core import vocab
from fusery.core.alignment import Side, align
from fusery.core.projection import project
from fusery.run.inspect.align.command import document
from fusery.run.inspect.align.view import view
from support.models.pico_models import TEXTS, TOKENIZERS
from support.runs.align_views import modes, reading, seen

TEXT = TEXTS[4].strip()


@pytest.mark.parametrize("positions", ["boundary", "dtw"])
@pytest.mark.parametrize("vocabulary", ["partition", "min_ed", "exact"])
def test_matches_cells_and_masses_are_those_of_the_align_hop(positions: str, vocabulary: str) -> None:
    rules = modes(positions, vocabulary)
    target, source = reading("sentencepiece", TEXT), reading("byte_level", TEXT, skill=0.5)
    [shown] = view(TEXT, rules, target, [source]).sources
    mapped = vocab.build(rules.vocabulary, source.tokenizer, target.tokenizer)
    sides = Side(source.tokenizer, source.text), Side(target.tokenizer, target.text)
    pairs = align(rules.positions, *sides, mapped)
    assert source.top is not None
    top = project(source.top.take(pairs.source_rows_R), mapped.cell_of_source_V)
    assert [match.position for match in shown.matches] == pairs.target_positions_R.tolist()
    assert [match.row for match in shown.matches] == pairs.source_rows_R.tolist()
    assert [match.kept_mass for match in shown.matches] == pytest.approx(top.mass_R.tolist())
    for match, ids, log_probs in zip(shown.matches, top.ids_RK, top.log_probs_RK, strict=True):
        assert [cell.number for cell in match.cells] == [i for i in ids[:3].tolist() if i >= 0]
        assert [cell.mass for cell in match.cells] == pytest.approx(np.exp(log_probs[: len(match.cells)]).tolist())
        for cell in match.cells:
            members = np.flatnonzero(mapped.cell_of_target_V == cell.number).tolist()
            assert cell.size == len(members)
            assert [index for index, _ in cell.tokens] == members[: len(cell.tokens)]
            following = int(target.text.ids_T[match.position + 1])
            assert cell.has_next == (following in members)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_source_with_the_targets_tokenizer_has_evidence_everywhere_and_its_best_cell_is_the_next_token(
    kind: str,
) -> None:
    text = TEXTS[2].strip()
    shown = seen(text, kind, kind, skill=0.5)
    [source] = shown.sources
    assert [match.position for match in source.matches] == list(range(shown.positions))
    assert source.same_cell == source.next_is_best == 1.0
    assert all(match.next_mass == pytest.approx(0.5) for match in source.matches)
    for match in source.matches:
        assert match.cells[0].tokens == ((shown.target[match.position + 1].id, shown.target[match.position + 1].shown),)


@given(st.text(alphabet="The naïve 東京 fox\n\t😀", min_size=1, max_size=24), st.sampled_from(["boundary", "dtw"]))
def test_tokens_cover_the_text_and_matches_point_into_both(text: str, positions: str) -> None:
    rules = modes(positions, "min_ed")
    shown = seen(text, "byte_level", "sentencepiece", skill=0.4, rules=rules)
    [source] = shown.sources
    for row in (shown.target, source.tokens):
        assert row[0].start == 0
        assert row[-1].end == len(text.encode())
        assert all(before.end == after.start for before, after in itertools.pairwise(row))
    assert b"".join(token.spelled or b"" for token in shown.target).decode() == text
    assert all(match.position < shown.positions for match in source.matches)
    if positions == "boundary":
        assert all(shown.target[m.position].end == source.tokens[m.row].end for m in source.matches)
    assert (source.nothing_because is None) == bool(source.matches)


def test_a_source_without_distributions_has_matches_and_no_masses() -> None:
    [source] = seen(TEXT, "byte_level", "sentencepiece", skill=None).sources
    assert source.guesses is None
    assert source.matches
    assert source.kept_mass is None
    assert source.next_is_best is None
    assert source.same_cell is not None
    assert all(match.cells == () and match.kept_mass is None for match in source.matches)


def test_only_as_many_next_tokens_and_cells_are_kept_as_are_shown() -> None:
    [source] = seen(TEXT, "byte_level", "byte_level", rules=modes(top=2)).sources
    assert source.guesses is not None
    assert {len(row) for row in source.guesses} == {2}
    assert {len(match.cells) for match in source.matches} == {2}
    assert source.top_k == 8


@pytest.mark.parametrize(
    ("text", "target", "source", "positions", "says"),
    [
        ("T", "byte_level", "sentencepiece", "boundary", "the target reads the text as one token"),
        ("fox", "sentencepiece", "unigram", "boundary", "ends where one of the target's does"),
        ("東", "byte_level", "unigram", "dtw", "compare with --positions boundary"),
    ],
)
def test_a_text_without_evidence_says_why(text: str, target: str, source: str, positions: str, says: str) -> None:
    [shown] = seen(text, target, source, rules=modes(positions)).sources
    assert shown.matches == ()
    assert shown.nothing_because is not None
    assert says in shown.nothing_because


def test_the_document_for_programs_has_every_documented_key() -> None:
    content = document(seen(TEXT, "sentencepiece", "byte_level"))
    assert list(content) == ["format", "text", "bytes", "positions", "vocabulary", "target", "sources"]
    assert content["text"] == TEXT
    [source] = content["sources"]
    assert list(source) == [
        *("name", "given", "tokenizer_fingerprint", "has_distributions", "top_k", "cells", "summary", "tokens"),
        "matches",
    ]
    assert list(source["summary"]) == [
        *("positions", "with_evidence", "share", "kept_mass", "same_cell", "next_in_best_cell", "nothing_because"),
    ]
    assert list(content["target"]["tokens"][0]) == ["id", "shown", "hex", "byte_start", "byte_end"]
    assert list(source["tokens"][0]) == ["id", "shown", "hex", "byte_start", "byte_end", "matched", "top"]
    match = source["matches"][0]
    assert list(match) == [
        *("position", "row", "byte_end", "source_byte_end", "same_cell", "next_in_best_cell", "next_mass"),
        *("kept_mass", "cells"),
    ]
    assert list(match["cells"][0]) == ["cell", "size", "tokens", "mass", "has_next"]
    assert [t["matched"] for t in source["tokens"]].count(True) == source["summary"]["with_evidence"]
    assert bytes.fromhex("".join(token["hex"] for token in source["tokens"])).decode() == TEXT
