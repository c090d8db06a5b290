from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer, models, pre_tokenizers

from fusery.core import vocab
from fusery.core.rules import Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import PAD, VocabularyMap
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer

PAIRS = list(itertools.permutations(TOKENIZERS, 2))


def build(rule: Vocabulary, source: str, target: str) -> VocabularyMap:
    return vocab.build(rule, pico_byte_tokenizer(source), pico_byte_tokenizer(target))


@pytest.mark.parametrize("rule", list(Vocabulary))
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_mapped_to_itself_is_the_identity_on_all_that_it_emits(rule: Vocabulary, kind: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    identity = build(rule, kind, kind)
    emitted = {i for text in TEXTS for i in tokenizer.tokenize(text).ids_T.tolist() if tokenizer.token_bytes[i]}
    ids = np.asarray(sorted(emitted))
    assert (identity.cell_of_source_V[ids] == identity.cell_of_target_V[ids]).all()
    assert len(set(identity.cell_of_target_V[ids].tolist())) == len(ids)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_cells_of_a_partition_hold_tokens_of_both_sides_and_are_numbered_by_target_id(source: str, target: str) -> None:
    partition = build(Vocabulary.PARTITION, source, target)
    everything = set(range(partition.cells))
    assert set(partition.cell_of_source_V.tolist()) - {PAD} == everything
    assert set(partition.cell_of_target_V.tolist()) - {PAD} == everything
    used = [cell for cell in dict.fromkeys(partition.cell_of_target_V.tolist()) if cell != PAD]
    assert used == sorted(used)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_partition_is_the_same_with_source_and_target_exchanged(source: str, target: str) -> None:
    one, other = build(Vocabulary.PARTITION, source, target), build(Vocabulary.PARTITION, target, source)
    assert one.cells == other.cells
    assert _groups(one.cell_of_source_V, one.cell_of_target_V) == _groups(
        other.cell_of_target_V, other.cell_of_source_V
    )


def _groups(first: np.ndarray, second: np.ndarray) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:  # type: ignore[type-arg]
    cells = range(int(first.max()) + 1)
    return {(tuple(np.flatnonzero(first == c).tolist()), tuple(np.flatnonzero(second == c).tolist())) for c in cells}


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_special_tokens_are_in_no_cell_of_a_partition(source: str, target: str) -> None:
    partition = build(Vocabulary.PARTITION, source, target)
    for kind, cells in ((source, partition.cell_of_source_V), (target, partition.cell_of_target_V)):
        special = [i for i, spelled in enumerate(pico_byte_tokenizer(kind).token_bytes) if spelled is None]
        assert (cells[special] == PAD).all()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_source_token_shares_the_cell_of_the_targets_first_token_of_its_bytes(source: str, target: str) -> None:
    partition = build(Vocabulary.PARTITION, source, target)
    first_piece = vocab.first_piece(pico_byte_tokenizer(source), pico_byte_tokenizer(target))
    mapped = np.flatnonzero(first_piece.cell_of_source_V != PAD)
    images = first_piece.cell_of_source_V[mapped]
    assert (partition.cell_of_source_V[mapped] == partition.cell_of_target_V[images]).all()
    assert (partition.cell_of_source_V[mapped] != PAD).all()


def _tokenizer(*pieces: str) -> ByteTokenizer:
    """Byte-level BPE of single letters and the given pieces, each merged from its first letter on."""
    letters = sorted({letter for piece in pieces for letter in piece})
    grown = [piece[:n] for piece in pieces for n in range(2, len(piece) + 1)]
    names = list(dict.fromkeys([*letters, *grown]))
    merges = [(name[:-1], name[-1]) for name in names if len(name) > 1]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return ByteTokenizer(tokenizer)


def test_a_hand_computed_partition() -> None:
    source, target = _tokenizer("ab", "c"), _tokenizer("a", "b", "cb")
    # Source ids: a b c ab. Target ids: a b c cb. The target reads "ab" as a·b: ab joins a. The source reads cb as c·b.
    partition = vocab.build(Vocabulary.PARTITION, source, target)
    assert partition.cell_of_source_V.tolist() == [0, 1, 2, 0]
    assert partition.cell_of_target_V.tolist() == [0, 1, 2, 2]


def test_exact_maps_equal_bytes_and_nothing_else() -> None:
    exact = build(Vocabulary.EXACT, "byte_level", "sentencepiece")
    source, target = pico_byte_tokenizer("byte_level"), pico_byte_tokenizer("sentencepiece")
    for token, image in enumerate(exact.cell_of_source_V.tolist()):
        if image == PAD:
            assert source.token_bytes[token] is None or source.token_bytes[token] not in target.token_bytes
        else:
            assert source.token_bytes[token] == target.token_bytes[image]


def test_min_ed_takes_the_least_distance_and_the_smallest_id_on_ties() -> None:
    nearest = build(Vocabulary.MIN_ED, "unigram", "byte_level")
    source, target = pico_byte_tokenizer("unigram"), pico_byte_tokenizer("byte_level")
    candidates = [(i, spelled) for i, spelled in enumerate(target.token_bytes) if spelled]
    for token in range(0, source.size, 17):
        spelled = source.token_bytes[token]
        if spelled:
            best = min(candidates, key=lambda item: (Levenshtein.distance(spelled, item[1]), item[0]))
            assert nearest.cell_of_source_V[token] == best[0]


def test_a_byte_token_stands_for_its_byte_only_if_no_ordinary_token_does() -> None:
    source, target = pico_byte_tokenizer("byte_level"), pico_byte_tokenizer("sentencepiece")
    first_piece = vocab.first_piece(source, target)
    letter, newline = source.token_bytes.index(b"a"), source.token_bytes.index(b"\n")
    assert first_piece.cell_of_source_V[letter] not in target.byte_fallback_ids
    assert first_piece.cell_of_source_V[newline] in target.byte_fallback_ids


@pytest.mark.parametrize("build_map", [partial(vocab.build, Vocabulary.PARTITION), vocab.first_piece])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_mapped_to_itself_has_a_cell_of_its_own_for_every_token_that_spells_something(
    build_map: Callable[[ByteTokenizer, ByteTokenizer], VocabularyMap], kind: str
) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    identity = build_map(tokenizer, tokenizer)
    spelling = np.asarray([i for i, spelled in enumerate(tokenizer.token_bytes) if spelled])
    assert (identity.cell_of_source_V[spelling] == identity.cell_of_target_V[spelling]).all()
    assert len(set(identity.cell_of_source_V[spelling].tolist())) == len(spelling)
    specials = np.setdiff1d(np.arange(tokenizer.size), spelling)
    assert (identity.cell_of_source_V[specials] == PAD).all()
