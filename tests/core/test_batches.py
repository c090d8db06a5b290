from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusery.core.batches import by_length


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_batches_hold_every_document_once_and_keep_the_padded_size(lengths: list[int], batch_bytes: int) -> None:
    cut = by_length(lengths, batch_bytes)
    assert sorted(index for batch in cut for index in batch) == list(range(len(lengths)))
    for batch in cut:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_bytes
    in_order = [lengths[index] for batch in cut for index in batch]
    assert in_order == sorted(in_order)


def test_batches_never_exceed_what_a_server_takes_at_once() -> None:
    assert max(len(batch) for batch in by_length([1] * 3000, 1_000_000)) == 1024
