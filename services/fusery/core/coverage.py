"""Coverage: how much of the target's text a source speaks about, and what becomes of its probability mass on the way.

Counts and sums only, so that documents, domains and shards add up; shares are taken last. What becomes of a source
token's mass depends on the vocabulary map alone: it is found once per map, and a document then costs two gathers
and a bincount over its entries.

R rows, K entries of a row, V source vocabulary (and one more), I images, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fusery.core.projection import kept_entries
from fusery.core.topk import PAD, FloatArray, IntArray, TopK, VocabularyMap

BINS = 100
"""Of kept mass, from 0 to 1: a decile read from them is off by 0.01 at most."""

Float64Array = npt.NDArray[np.float64]


class Image(IntEnum):
    """What a source token becomes under a vocabulary map."""

    SAME_BYTES = 0
    """A cell of one target token, which spells the same bytes."""
    OTHER_BYTES = 1
    """A cell of one target token, which spells something else: a first piece, or the nearest string."""
    LARGER_CELL = 2
    """A cell of several target tokens."""
    NO_CELL = 3
    """No cell: its mass joins the tail, or is dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenImages:
    """Of every source token its image and cell, int64 [V], and the target tokens of the cell if several, else 0.

    The last entry stands for ids past the tokenizer, which have no cell.
    """

    image_V: IntArray
    cell_V: IntArray
    cell_tokens_V: FloatArray


def images_of(
    vocabulary: VocabularyMap, source_bytes: Sequence[bytes | None], target_bytes: Sequence[bytes | None]
) -> TokenImages:
    """The images of all source tokens; `source_bytes` and `target_bytes` say what each token spells."""
    cell_of_target = vocabulary.cell_of_target_V
    in_cell = np.flatnonzero(cell_of_target != PAD)
    size_of_cell = np.bincount(cell_of_target[in_cell], minlength=vocabulary.cells)
    # Right where a cell has one target token, and looked at only there.
    token_of_cell = np.zeros(vocabulary.cells, np.int64)
    token_of_cell[cell_of_target[in_cell]] = in_cell
    source_ids = np.flatnonzero(vocabulary.cell_of_source_V != PAD)
    cells = vocabulary.cell_of_source_V[source_ids]
    sizes = size_of_cell[cells]
    spelled, written = np.asarray(source_bytes, object), np.asarray(target_bytes, object)
    same = np.asarray(spelled[source_ids] == written[token_of_cell[cells]], bool)
    several = np.where(same, Image.SAME_BYTES, Image.OTHER_BYTES)
    image = np.full(len(vocabulary.cell_of_source_V) + 1, Image.NO_CELL, np.int64)
    image[source_ids] = np.select([sizes > 1, sizes == 1], [Image.LARGER_CELL, several], Image.NO_CELL)
    tokens = np.zeros(len(image), np.float32)
    tokens[source_ids] = np.where(sizes > 1, sizes, 0)
    return TokenImages(image, np.append(vocabulary.cell_of_source_V, PAD), tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """What is known of some text: numbers that add up.

    `positions`: target positions that predict something; `with_evidence`: those for which a source row is used.
    `source_rows`: all rows of the source; `source_astray`, `target_astray`: the rows of either side that do not stand
    where the text goes on, for their tokenizer changes the text. Of the rows used: `mass_I`, the captured mass by
    what its tokens become; `cell_tokens`, Σ mass · tokens of the cell over larger cells; `kept_B`, rows by kept mass.
    """

    documents: int
    positions: int
    with_evidence: int
    source_rows: int
    source_astray: int
    target_astray: int
    mass_I: Float64Array
    cell_tokens: float
    kept_B: IntArray

    def plus(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def captured_mass(self) -> float:
        """Captured mass of the rows used; at most their number."""
        return float(self.mass_I.sum())

    @property
    def kept_mass(self) -> float:
        """What of it has a cell."""
        return self.captured_mass - float(self.mass_I[Image.NO_CELL])


def nothing() -> Counts:
    """The counts of no text."""
    return Counts(0, 0, 0, 0, 0, 0, np.zeros(len(Image)), 0.0, np.zeros(BINS, np.int64))


def masses(used: TopK, images: TokenImages, drops_duplicates: bool = False) -> Counts:
    """Counts of the source rows `used` (source token ids): how many, and their mass by what its tokens become.

    `drops_duplicates`: of the entries of a row with one cell only the first is kept, as the paper's implementation
    does it; the others count as without a cell.
    """
    mass_RK = np.exp(used.log_probs_RK)
    # Clipped: absent entries (−1) have no mass, and ids past the tokenizer take the last image, which is none.
    image_RK = images.image_V.take(used.ids_RK, mode="clip")
    if drops_duplicates:
        image_RK[~kept_entries(images.cell_V.take(used.ids_RK, mode="clip"))] = Image.NO_CELL
    place_RK = image_RK + len(Image) * np.arange(used.rows)[:, None]
    flat = mass_RK.ravel()
    of_row_RI = np.bincount(place_RK.ravel(), flat, used.rows * len(Image)).reshape(used.rows, len(Image))
    kept_R = of_row_RI[:, : Image.NO_CELL].sum(axis=1)
    bins = np.minimum((kept_R * BINS).astype(np.int64), BINS - 1)
    # Dropping goes with maps to single tokens only, so no larger cell is left out here.
    cell_tokens = float(np.dot(images.cell_tokens_V.take(used.ids_RK.ravel(), mode="clip"), flat))
    kept_B = np.bincount(bins, minlength=BINS)
    return Counts(0, 0, used.rows, 0, 0, 0, of_row_RI.sum(axis=0), cell_tokens, kept_B)


def deciles(counts_B: IntArray) -> list[float] | None:
    """The nine deciles of kept mass, each off by a bin's width at most; None if there are no rows."""
    total = int(counts_B.sum())
    if total == 0:
        return None
    ends = np.cumsum(counts_B)
    wanted = total * np.arange(1, 10) / 10
    bins = np.searchsorted(ends, wanted)
    before = ends[bins] - counts_B[bins]
    return [float(value) for value in (bins + (wanted - before) / counts_B[bins]) / len(counts_B)]
