"""Projection: a source's distributions in the cells that the target shares with it.

Mass is summed where several source tokens fall into one cell, and never renormalised: what falls into no
cell joins the tail, so the kept mass of a row still says how much is known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusery.core.topk import PAD, FloatArray, IntArray, TopK


def project(top: TopK, cell_of_source_V: IntArray) -> TopK:
    """`top` with source tokens replaced by their cells, duplicates summed, best first, [R, K].

    >>> top = TopK(np.array([[5, 3, 4]]), np.log(np.float32([[0.4, 0.3, 0.2]])))
    >>> found = project(top, cell_of_source_V=np.array([0, 0, 0, 1, 1, 0]))  # tokens 3 and 4 are in one cell
    >>> print(found.ids_RK, np.exp(found.log_probs_RK).round(2))
    [[ 1  0 -1]] [[0.5 0.4 0. ]]
    """
    cells = _cells(top, cell_of_source_V)
    mass = np.where(cells == PAD, 0.0, np.exp(top.log_probs_RK.astype(np.float64)))
    return sum_duplicates(cells, mass)


def project_as_reference(top: TopK, image_V: IntArray) -> TopK:
    """`top` with source tokens replaced by target tokens as the paper's implementation does it, [R, K].

    An entry whose image the row had already is dropped, and what is left is a softmax of its own.
    """
    images = _cells(top, image_V)
    kept = kept_entries(images)
    order = np.argsort(~kept, axis=1, kind="stable")
    images, kept = np.take_along_axis(images, order, 1), np.take_along_axis(kept, order, 1)
    log_mass = np.where(kept, np.take_along_axis(top.log_probs_RK, order, 1).astype(np.float64), -np.inf)
    largest = log_mass.max(axis=1, keepdims=True, initial=-np.inf)
    mass = np.exp(log_mass - np.where(np.isinf(largest), 0.0, largest))
    with np.errstate(divide="ignore"):
        log_probs = np.log(mass / np.maximum(mass.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))
    return TopK(np.where(kept, images, PAD), log_probs.astype(np.float32))


def kept_entries(images_RK: IntArray) -> npt.NDArray[np.bool_]:
    """The entries that a row keeps, bool [R, K]: those with an image that no entry before them has."""
    order = np.argsort(images_RK, axis=1, kind="stable")
    in_order = np.take_along_axis(images_RK, order, 1)
    is_first = np.ones(images_RK.shape, bool)
    is_first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    kept = np.empty(images_RK.shape, bool)
    np.put_along_axis(kept, order, is_first, 1)
    kept &= images_RK != PAD
    return kept


def _cells(top: TopK, cell_of_source_V: IntArray) -> IntArray:
    """The cell of every entry; ids past the tokenizer (padded model vocabularies) have no bytes and so no cell."""
    known = (top.ids_RK >= 0) & (top.ids_RK < len(cell_of_source_V))
    return np.where(known, cell_of_source_V[np.where(known, top.ids_RK, 0)], PAD)


def sum_duplicates(ids_RK: IntArray, mass_RK: npt.NDArray[np.float64]) -> TopK:
    """Rows with equal ids merged: one entry per id with the summed mass, ordered by mass, then by id."""
    rows, k = ids_RK.shape
    if k == 0 or rows == 0:
        return TopK(ids_RK.astype(np.int64), np.full(ids_RK.shape, -np.inf, np.float32))
    ids, mass = _sorted_by_id(ids_RK, mass_RK)
    is_first = np.ones((rows, k), bool)
    is_first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(is_first.ravel())
    summed = np.zeros(rows * k, np.float32)
    summed[starts] = np.add.reduceat(mass.ravel(), starts)
    summed = summed.reshape(rows, k)
    present = is_first & (ids != PAD) & (summed > 0)
    return _best_first(np.where(present, ids, PAD), np.where(present, summed, np.float32(0)))


def _sorted_by_id(ids_RK: IntArray, mass_RK: npt.NDArray[np.float64]) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Both with every row's ids ascending, equal ids in their order. Sorting (id, place) as one number is fastest."""
    k = ids_RK.shape[1]
    keys = np.sort(ids_RK * k + np.arange(k), axis=1)
    ids = keys // k
    return ids, np.take_along_axis(mass_RK, keys - ids * k, 1)


def _best_first(ids_RK: IntArray, mass_RK: FloatArray) -> TopK:
    """Rows ordered by mass, of equal masses by place; the bits of positive floats are ordered as they are."""
    k = ids_RK.shape[1]
    heavy_first = np.int64(2**31) - mass_RK.view(np.int32)
    place = np.sort(heavy_first * k + np.arange(k), axis=1) % k
    with np.errstate(divide="ignore"):
        log_probs = np.minimum(np.log(np.take_along_axis(mass_RK, place, 1)), np.float32(0))
    return TopK(np.take_along_axis(ids_RK, place, 1), log_probs)
