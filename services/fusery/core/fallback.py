"""Fallbacks: what a target position without evidence gets, for those who want it to get something.

Nothing, by default: there the target trains on the text alone. `current_token` is the paper's implementation: all mass
on the token at the position, though its row predicts the next one.
"""

from __future__ import annotations

import numpy as np

from fusery.core.rules import Fallback
from fusery.core.topk import PAD, FloatArray, IntArray, TopK, empty


def with_fallback(
    rule: Fallback, positions_R: IntArray, top: TopK, target_ids_N: IntArray, cell_of_target_V: IntArray, first: int = 0
) -> tuple[IntArray, TopK]:
    """Positions and distributions with those of `rule` where `positions_R` has none, positions ascending.

    The last token predicts nothing; positions before `first` (prefix tokens) get nothing.
    """
    if rule is Fallback.NONE:
        return positions_R, top
    missing = np.setdiff1d(np.arange(first, len(target_ids_N) - 1), positions_R)
    cells = cell_of_target_V[target_ids_N[missing + (rule is Fallback.NEXT_TOKEN)]]
    missing, cells = missing[cells != PAD], cells[cells != PAD]
    sure = empty(len(missing), max(top.k, 1))
    sure.ids_RK[:, 0], sure.log_probs_RK[:, 0] = cells, 0.0
    positions = np.concatenate([positions_R, missing])
    order = np.argsort(positions, kind="stable")
    ids_RK: IntArray = np.concatenate([top.ids_RK, sure.ids_RK])[order]
    log_probs_RK: FloatArray = np.concatenate([top.log_probs_RK, sure.log_probs_RK])[order]
    return positions[order], TopK(ids_RK, log_probs_RK)
