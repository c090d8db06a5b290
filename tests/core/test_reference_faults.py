"""What is known to be wrong with mode `reference`, and that the default mends it: one test each."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fusery.core import vocab
from fusery.core.alignment import Alignment, Side, align
from fusery.core.projection import project, project_as_reference
from fusery.core.reference import with_fallback
from fusery.core.rules import Fallback, Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import PAD, TopK, empty
from support.models.pico_models import pico_byte_tokenizer


def _words(*pieces: str) -> ByteTokenizer:
    """A greedy tokenizer with these pieces and every letter of theirs."""
    tokens = dict.fromkeys([*sorted(set("".join(pieces))), *pieces, "[UNK]"])
    numbered = {token: i for i, token in enumerate(tokens)}
    return ByteTokenizer(Tokenizer(models.WordPiece(numbered, continuing_subword_prefix="", unk_token="[UNK]")))


def _aligned(
    positions: Positions, source: ByteTokenizer, target: ByteTokenizer, text: str
) -> tuple[Alignment, Side, Side]:
    sides = Side(source, source.tokenize(text)), Side(target, target.tokenize(text))
    rule = Vocabulary.MIN_ED if positions is Positions.REFERENCE else Vocabulary.PARTITION
    return align(positions, *sides, vocab.build(rule, source, target, positions)), *sides


def test_its_one_hot_names_the_token_at_the_position_though_the_row_predicts_the_next() -> None:
    target_ids, cells = np.array([5, 6, 7]), np.arange(10)
    nothing = np.zeros(0, np.int64)
    positions, current = with_fallback(Fallback.CURRENT_TOKEN, nothing, empty(0, 1), target_ids, cells)
    assert (positions.tolist(), current.ids_RK[:, 0].tolist()) == ([0, 1], [5, 6])
    assert current.log_probs_RK[:, 0].tolist() == [0, 0]
    assert with_fallback(Fallback.NONE, nothing, empty(0, 1), target_ids, cells)[0].tolist() == []


def test_positions_with_evidence_keep_it_beside_the_one_hots() -> None:
    top = TopK(np.array([[7, 8], [5, PAD]]), np.log(np.array([[0.5, 0.25], [0.5, 0]], np.float32) + 1e-30))
    cells = np.arange(20) + 100
    cells[12] = PAD  # a token in no cell gets no certainty
    positions, found = with_fallback(Fallback.CURRENT_TOKEN, np.array([1, 3]), top, np.arange(10, 16), cells, first=0)
    assert positions.tolist() == [0, 1, 3, 4]
    assert found.ids_RK.tolist() == [[110, PAD], [7, 8], [5, PAD], [114, PAD]]
    after_bos, _ = with_fallback(Fallback.CURRENT_TOKEN, np.zeros(0, np.int64), empty(0, 2), np.arange(5), cells, 2)
    assert after_bos.tolist() == [2, 3]


def test_it_drops_the_mass_of_a_second_token_with_the_same_image_and_stretches_the_rest() -> None:
    top = TopK(np.array([[0, 1, 2]]), np.log(np.array([[0.4, 0.3, 0.1]], np.float32)))
    image = np.array([7, 7, 8])
    assert np.exp(project_as_reference(top, image).log_probs_RK[0, :2]) == pytest.approx([0.8, 0.2])
    mended = project(top, image)
    assert mended.ids_RK[0, :2].tolist() == [7, 8]
    assert np.exp(mended.log_probs_RK[0, :2]) == pytest.approx([0.7, 0.1])


def test_the_same_byte_written_by_two_kinds_of_tokenizer_never_matches() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    source, target = ByteTokenizer(backend), _byte_fallback_letters()
    text = "é\né\n"
    reference, *_ = _aligned(Positions.REFERENCE, source, target, text)
    mended, s, t = _aligned(Positions.BOUNDARY, source, target, text)
    assert reference.target_positions_R.tolist() == []
    assert mended.target_positions_R.tolist() == list(range(len(t.text.ids_T) - 1))
    partition = vocab.build(Vocabulary.PARTITION, source, target)
    cells = partition.cell_of_source_V[s.text.ids_T]
    assert (cells >= 0).all()
    assert (cells == partition.cell_of_target_V[t.text.ids_T]).all()


def _byte_fallback_letters() -> ByteTokenizer:
    pieces = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"<unk>": 256}
    backend = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True))
    return ByteTokenizer(backend)


def test_where_the_tokens_differ_but_both_models_have_read_the_same_text_it_has_no_evidence() -> None:
    source, target = _words("abc", "de"), _words("ab", "cde")
    reference, *_ = _aligned(Positions.REFERENCE, source, target, "abcdeab")
    mended, s, t = _aligned(Positions.BOUNDARY, source, target, "abcdeab")
    assert t.text.byte_ends_T.tolist() == [2, 5, 7]
    assert s.text.byte_ends_T.tolist() == [3, 5, 6, 7]
    assert 1 not in reference.target_positions_R.tolist()
    assert (mended.target_positions_R.tolist(), mended.source_rows_R.tolist()) == ([1], [1])


def test_where_its_path_slips_it_takes_a_row_that_has_read_another_text() -> None:
    source, target = _words("a", "b"), _words("ab", "ba", "aa")
    slipped = 0
    for number in range(2**9):
        text = "".join("ab"[number >> bit & 1] for bit in range(9))
        for positions in (Positions.REFERENCE, Positions.BOUNDARY):
            pairs, s, t = _aligned(positions, source, target, text)
            read = s.text.byte_ends_T[pairs.source_rows_R]
            astray = int((read != t.text.byte_ends_T[pairs.target_positions_R]).sum())
            if positions is Positions.BOUNDARY:
                assert astray == 0
            slipped += astray
    assert slipped > 0


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize(
    "kinds", [("byte_level", "sentencepiece"), ("sentencepiece", "unigram"), ("unigram", "byte_level")]
)
@pytest.mark.parametrize("text", ["", "x", "\n"])
def test_an_empty_or_one_token_text_has_nothing_that_could_go_wrong(
    positions: Positions, kinds: tuple[str, str], text: str
) -> None:
    source, target = map(pico_byte_tokenizer, kinds)
    pairs, s, t = _aligned(positions, source, target, text)
    assert (pairs.target_positions_R < max(len(t.text.ids_T) - 1, 0)).all()
    assert (pairs.source_rows_R < len(s.text.ids_T)).all()
