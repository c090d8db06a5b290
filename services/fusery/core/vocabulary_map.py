"""Vocabulary maps: what a source's tokens say in terms of the target's vocabulary.

One form for all rules: both vocabularies are mapped into cells. Under `partition` a cell is a set of source
tokens and a set of target tokens that are the same event; under the token-valued rules a cell is one target
token. Either way mass of source cell c supervises the target's mass of cell c, so alignment, fusion and loss
know one case only. A map is static per pair of tokenizers: built once, in seconds (`vocab`), and stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusery.core.topk import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyMap:
    """cell_of_source int64 [source V] and cell_of_target int64 [target V], PAD for tokens in no cell."""

    cell_of_source_V: IntArray
    cell_of_target_V: IntArray
    cells: int
