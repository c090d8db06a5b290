"""Vocabulary maps, built: what a source's tokens say in terms of the target's vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fusery.core import reference
from fusery.core.levenshtein import nearest
from fusery.core.rules import Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import PAD, IntArray, VocabularyMap


def build(
    rule: Vocabulary, source: ByteTokenizer, target: ByteTokenizer, positions: Positions = Positions.BOUNDARY
) -> VocabularyMap:
    """The map from `source` to `target` under `rule`; special tokens are in no cell.

    With `positions` reference the map is over token strings, special ones too, as the paper's implementation has it.
    """
    if positions is Positions.REFERENCE:
        markers = source.space_marker, target.space_marker
        mapped = reference.token_map(rule, source.token_strings, markers[0], target.token_strings, markers[1])
        return VocabularyMap(mapped.image_V, np.arange(target.size, dtype=np.int64), target.size)
    return _BUILDERS[rule](source, target)


def _partition(source: ByteTokenizer, target: ByteTokenizer) -> VocabularyMap:
    """Connected components of: source token t — first target token of t's bytes, and the other way round."""
    if source.fingerprint == target.fingerprint:
        edges_source = edges_target = _spelling_ids(source)
    else:
        source_ids, source_bytes = _ordinary_tokens(source)
        target_ids, target_bytes = _ordinary_tokens(target)
        forward, backward = target.first_tokens(source_bytes), source.first_tokens(target_bytes)
        edges_source = np.concatenate([source_ids[forward >= 0], backward[backward >= 0]])
        edges_target = np.concatenate([forward[forward >= 0], target_ids[backward >= 0]])
    nodes = source.size + target.size
    graph = coo_array((np.ones(len(edges_source), np.int8), (edges_source, source.size + edges_target)), (nodes, nodes))
    _, component = connected_components(graph, directed=False)
    in_edge = np.zeros(nodes, bool)
    in_edge[edges_source] = in_edge[source.size + edges_target] = True
    component = np.where(in_edge, component, PAD).astype(np.int64)
    return _numbered(component[: source.size], component[source.size :])


def _numbered(component_of_source: IntArray, component_of_target: IntArray) -> VocabularyMap:
    """Cells numbered by their smallest target id, so that the numbering depends on the tokenizers alone."""
    present = component_of_target[component_of_target != PAD]
    distinct, first = np.unique(present, return_index=True)
    rank = np.empty(len(distinct), np.int64)
    rank[np.argsort(first)] = np.arange(len(distinct))
    number = np.full(max(component_of_source.max(), component_of_target.max()) + 2, PAD, np.int64)
    number[distinct] = rank
    # PAD (−1) indexes the last element of `number`, which stays PAD.
    return VocabularyMap(number[component_of_source], number[component_of_target], len(distinct))


def first_piece(source: ByteTokenizer, target: ByteTokenizer) -> VocabularyMap:
    """The first target token of each source token's text: what benches compare `partition` with; no run uses it."""
    if source.fingerprint == target.fingerprint:
        return _token_valued(source, target, _spelling_ids(source), _spelling_ids(source))
    ids, spelled = _ordinary_tokens(source)
    return _token_valued(source, target, ids, target.first_tokens(spelled))


def _exact(source: ByteTokenizer, target: ByteTokenizer) -> VocabularyMap:
    ids, spelled = _ordinary_tokens(source)
    target_ids, target_bytes = _ordinary_tokens(target)
    id_of: dict[bytes, int] = {}
    for index, token in zip(target_ids.tolist(), target_bytes, strict=True):
        id_of.setdefault(token, index)
    return _token_valued(source, target, ids, np.asarray([id_of.get(token, PAD) for token in spelled], np.int64))


def _min_ed(source: ByteTokenizer, target: ByteTokenizer) -> VocabularyMap:
    """The target token at the least Levenshtein distance of the bytes; ties go to the smaller id."""
    ids, spelled = _ordinary_tokens(source)
    target_ids, target_bytes = _ordinary_tokens(target)
    return _token_valued(source, target, ids, target_ids[nearest(spelled, target_bytes)])


def _token_valued(source: ByteTokenizer, target: ByteTokenizer, ids: IntArray, images: IntArray) -> VocabularyMap:
    cell_of_source = np.full(source.size, PAD, np.int64)
    cell_of_source[ids] = images
    return VocabularyMap(cell_of_source, np.arange(target.size, dtype=np.int64), target.size)


def _spelling_ids(tokenizer: ByteTokenizer) -> IntArray:
    """Ids of all tokens that spell something, ascending: to itself a tokenizer maps them all."""
    return np.asarray([i for i, token in enumerate(tokenizer.token_bytes) if token], np.int64)


def _ordinary_tokens(tokenizer: ByteTokenizer) -> tuple[IntArray, list[bytes]]:
    """Ids, ascending, and bytes of the tokens that spell something.

    A byte-fallback token counts only if no ordinary token spells its byte: a map that lets "<0x61>" stand
    for "a" puts mass on tokens that the tokenizer never emits. A token that may or may not have white space before it
    (WordPiece) counts never: its mass joins the tail, where it is no word stuck to the one before.
    """
    fallback, starts = tokenizer.byte_fallback_ids, tokenizer.word_start_ids
    single = {token for i, token in enumerate(tokenizer.token_bytes) if token and len(token) == 1 and i not in fallback}
    kept = [
        (i, t)
        for i, t in enumerate(tokenizer.token_bytes)
        if t and i not in starts and not (i in fallback and t in single)
    ]
    return np.asarray([i for i, _ in kept], np.int64), [token for _, token in kept]


_BUILDERS: dict[Vocabulary, Callable[[ByteTokenizer, ByteTokenizer], VocabularyMap]] = {
    Vocabulary.PARTITION: _partition,
    Vocabulary.MIN_ED: _min_ed,
    Vocabulary.EXACT: _exact,
}
