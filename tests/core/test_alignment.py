from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from fusery.core import vocab
from fusery.core.alignment import Alignment, Side, align, boundary
from fusery.core.rules import Positions, TieOrder, Vocabulary
from fusery.core.tokens import ByteTokenizer, TokenizedText
from support.core.strategies import texts
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer


def tokenized(*ends: int) -> TokenizedText:
    return TokenizedText(np.arange(len(ends)), np.asarray(ends, np.int64))


segmentations = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(lambda steps: np.cumsum(steps).tolist())


@given(source=segmentations, target=segmentations)
def test_boundary_finds_exactly_the_common_byte_ends(source: list[int], target: list[int]) -> None:
    pairs = boundary(tokenized(*source), tokenized(*target))
    found = [target[i] for i in pairs.target_positions_R.tolist()]
    assert found == [source[j] for j in pairs.source_rows_R.tolist()]
    last = len(target) - 1
    # The last target token predicts nothing, and of equal ends only the last one stands there.
    expected = sorted(set(source) & set(target))
    assert found == [end for end in expected if end != target[last]]


def test_the_row_after_the_same_prefix_is_evidence_whatever_the_last_token_was() -> None:
    pairs = boundary(tokenized(0, 3, 5, 9), tokenized(0, 1, 3, 7, 9))
    assert pairs.target_positions_R.tolist() == [0, 2]
    assert pairs.source_rows_R.tolist() == [0, 1]


def test_pieces_of_one_character_give_one_row_the_last() -> None:
    pairs = boundary(tokenized(2, 2, 2, 4), tokenized(2, 4))
    assert (pairs.target_positions_R.tolist(), pairs.source_rows_R.tolist()) == ([0], [2])


def test_a_prefix_token_stands_before_the_space_that_is_put_before_the_text() -> None:
    ends = np.array([0, 4, 8])
    joined = TokenizedText(np.arange(3), ends, has_prefix_space=True, prefix_tokens=1)
    without = TokenizedText(np.arange(3), ends, prefix_tokens=1)
    # The space as a token of its own: behind it, not before it, the text begins.
    apart = TokenizedText(np.arange(4), np.array([0, 0, 4, 8]), has_prefix_space=True, prefix_tokens=1)
    assert _pairs(boundary(joined, without)) == [(1, 1)]
    assert _pairs(boundary(joined, joined)) == [(0, 0), (1, 1)]
    assert _pairs(boundary(without, without)) == [(0, 0), (1, 1)]
    assert _pairs(boundary(apart, joined)) == [(0, 0), (1, 2)]
    assert _pairs(boundary(apart, without)) == [(0, 1), (1, 2)]
    assert _pairs(boundary(apart, apart)) == [(0, 0), (1, 1), (2, 2)]


@given(text=texts.filter(bool))
def test_identical_tokenizers_align_every_predicting_position_with_itself(text: str) -> None:
    tokens = pico_byte_tokenizer("byte_level").tokenize(text)
    pairs = boundary(tokens, tokens)
    assert pairs.target_positions_R.tolist() == pairs.source_rows_R.tolist() == list(range(len(tokens.ids_T) - 1))


def test_at_common_boundaries_the_next_tokens_are_mostly_in_one_cell() -> None:
    same, seen = 0, 0
    for source_kind in TOKENIZERS:
        for target_kind in TOKENIZERS:
            source, target = pico_byte_tokenizer(source_kind), pico_byte_tokenizer(target_kind)
            partition = vocab.build(Vocabulary.PARTITION, source, target)
            for text in TEXTS:
                s, t = source.tokenize(text), target.tokenize(text)
                pairs = boundary(s, t)
                rows = pairs.source_rows_R[pairs.source_rows_R < len(s.ids_T) - 1]
                positions = pairs.target_positions_R[: len(rows)]
                source_cells = partition.cell_of_source_V[s.ids_T[rows + 1]]
                same += int((source_cells == partition.cell_of_target_V[t.ids_T[positions + 1]]).sum())
                seen += len(rows)
    assert seen > 500
    assert same / seen > 0.9


def test_mined_keeps_positions_that_meet_one_row_of_the_same_cell() -> None:
    for target_kind in TOKENIZERS:
        source, target = pico_byte_tokenizer("byte_level"), pico_byte_tokenizer(target_kind)
        exact = vocab.build(Vocabulary.EXACT, source, target)
        for text in TEXTS:
            s, t = source.tokenize(text), target.tokenize(text)
            pairs = align(Positions.DTW, Side(source, s), Side(target, t), exact)
            assert len(pairs.target_positions_R) > 0
            assert (np.diff(pairs.target_positions_R) > 0).all()
            for position, row in zip(pairs.target_positions_R.tolist(), pairs.source_rows_R.tolist(), strict=True):
                assert source.token_bytes[s.ids_T[row]] == target.token_bytes[t.ids_T[position]]


NASTY = st.text(st.sampled_from("ab é́ü東京😀👩‍💻\r\n\t  \u200d\x00ﬁя"), min_size=1, max_size=20)


@st.composite
def segmented_twice(draw: st.DrawFn) -> tuple[bytes, list[int], list[int]]:
    data = draw(NASTY).encode()
    inner = st.lists(st.integers(1, len(data)), unique=True, max_size=len(data))
    return data, *(sorted({*draw(inner), len(data)}) for _ in range(2))  # type: ignore[return-value]


@given(case=segmented_twice())
def test_however_a_text_is_cut_boundary_finds_exactly_the_common_ends(case: tuple[bytes, list[int], list[int]]) -> None:
    data, source, target = case
    pairs = boundary(tokenized(*source), tokenized(*target))
    found = [(data[: source[j]], data[: target[i]]) for i, j in _pairs(pairs)]
    assert all(read == written for read, written in found)
    assert [len(written) for _, written in found] == sorted((set(source) & set(target)) - {len(data)})


def _pairs(pairs: Alignment) -> list[tuple[int, int]]:
    return list(zip(pairs.target_positions_R.tolist(), pairs.source_rows_R.tolist(), strict=True))


def test_rows_that_do_not_stand_are_no_evidence_on_either_side() -> None:
    plain = tokenized(2, 4, 6, 8)
    changed = TokenizedText(plain.ids_T, plain.byte_ends_T, stands_T=np.array([True, False, True, True]))
    assert boundary(changed, plain).target_positions_R.tolist() == [0, 2]
    assert boundary(plain, changed).target_positions_R.tolist() == [0, 2]


def test_a_normalising_tokenizer_aligned_with_itself_has_evidence_everywhere() -> None:
    backend = Tokenizer.from_str(pico_byte_tokenizer("byte_level")._backend.to_str())
    backend.normalizer = normalizers.Lowercase()
    tokenizer = ByteTokenizer(backend)
    text = tokenizer.tokenize("The Fox AND the hound")
    assert text.stands_T is not None
    side = Side(tokenizer, text)
    pairs = align(Positions.BOUNDARY, side, side, vocab.build(Vocabulary.PARTITION, tokenizer, tokenizer))
    assert _pairs(pairs) == [(i, i) for i in range(len(text.ids_T) - 1)]


pieces = st.lists(st.text(st.sampled_from("ab 東😀"), min_size=2, max_size=4), max_size=12, unique=True)


@given(source_pieces=pieces, target_pieces=pieces, text=st.text(st.sampled_from("ab 東😀"), min_size=1, max_size=30))
def test_of_tokenizers_without_context_effects_the_next_tokens_lie_in_one_cell(
    source_pieces: list[str], target_pieces: list[str], text: str
) -> None:
    """Greedy tokenizers: the token at a place depends on the text behind it alone, so the cells are exact."""
    source, target = _greedy(source_pieces), _greedy(target_pieces)
    partition = vocab.build(Vocabulary.PARTITION, source, target)
    s, t = source.tokenize(text), target.tokenize(text)
    pairs = _pairs(align(Positions.BOUNDARY, Side(source, s), Side(target, t), partition))
    for position, row in [(-1, -1), *pairs]:
        cell = partition.cell_of_source_V[s.ids_T[row + 1]]
        assert cell >= 0
        assert cell == partition.cell_of_target_V[t.ids_T[position + 1]]


def _greedy(longer_pieces: list[str], words: str | None = None) -> ByteTokenizer:
    tokens = dict.fromkeys([*"ab 東😀", *longer_pieces, "[UNK]"])
    numbered = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(numbered, continuing_subword_prefix="", unk_token="[UNK]"))
    if words is not None:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(words), "isolated")
    return ByteTokenizer(backend)


def test_dtw_breaks_ties_as_the_paper_and_reference_as_asked() -> None:
    source, target = _letters("aba"), _letters("bab")
    exact = vocab.build(Vocabulary.EXACT, source.tokenizer, target.tokenizer)
    by_source, by_target = TieOrder.DIAGONAL_SOURCE_TARGET, TieOrder.DIAGONAL_TARGET_SOURCE
    assert _pairs(align(Positions.DTW, source, target, exact)) == [(1, 0)]
    assert _pairs(align(Positions.REFERENCE, source, target, exact, by_source)) == [(1, 0)]
    assert _pairs(align(Positions.REFERENCE, source, target, exact, by_target)) == [(1, 2)]


def _letters(text: str) -> Side:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = ByteTokenizer(backend)
    return Side(tokenizer, tokenizer.tokenize(text))
