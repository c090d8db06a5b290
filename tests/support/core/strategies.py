"""Hypothesis strategies for what flows through the hops."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusery.core.topk import PAD, TopK

texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \n\t\r<s>é😀東ab.(){}\u0301"),
    max_size=60,
)
"""Any Unicode, with what splits tokenizers apart made likely."""

plain_texts = st.text(st.sampled_from("abcdefgh THE the def(): \n\t{}123.,=-"), min_size=1, max_size=80)


@st.composite
def top_ks(draw: st.DrawFn, vocabulary: int = 30, max_rows: int = 6, max_k: int = 8) -> TopK:
    """Rows of distinct ids, best first, with mass below 1 and now and then fewer entries than k."""
    rows, k = draw(st.integers(0, max_rows)), draw(st.integers(1, max_k))
    weights = draw(arrays(np.float64, (rows, vocabulary), elements=st.floats(0.001, 1)))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    ids = np.argsort(-probabilities, axis=1)[:, :k].astype(np.int64)
    log_probs = np.log(np.take_along_axis(probabilities, ids, 1)).astype(np.float32)
    entries = draw(arrays(np.int64, rows, elements=st.integers(0, k)))
    absent = np.arange(k) >= entries[:, None]
    return TopK(np.where(absent, PAD, ids), np.where(absent, np.float32(-np.inf), log_probs))
