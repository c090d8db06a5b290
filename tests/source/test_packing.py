"""Packed bytes: what comes back, what is refused, and bytes that must never change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.topk import TopK
from fusery.runtime.errors import Corrupt
from fusery.source.packing import LogProbs, Packed, Unpacked, pack, unpack


def arrays_of(tokens: int, k: int, seed: int) -> Unpacked:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(tokens, max(k, 1) + 5))
    log_probs = np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    ids = np.argsort(-log_probs, axis=1)[:, :k]
    top = TopK(ids.astype(np.int64), np.take_along_axis(log_probs, ids, 1).astype(np.float32))
    ends = np.sort(generator.integers(0, 2**32, tokens)).astype(np.int64)
    next_log_probs = -generator.exponential(size=tokens).astype(np.float32)
    return Unpacked(generator.integers(0, 2**32, tokens), ends, top, next_log_probs)


def damaged(packed: Packed, **changes: object) -> Packed:
    """`packed` with other content under a CRC that fits it, as a server with a defect would send it."""
    changed = dataclasses.replace(packed, **changes)  # type: ignore[arg-type]
    try:
        unpack("d", changed)
    except Corrupt as error:
        found = str(error).split("CRC-32 is ")[-1][:8]
        return dataclasses.replace(changed, crc32=int(found, 16))
    return changed


@given(tokens=st.integers(0, 20), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_float32_arrays_come_back_bit_by_bit(tokens: int, k: int, seed: int) -> None:
    arrays = arrays_of(tokens, k, seed)
    back = unpack("naïve id", pack("naïve id", arrays, "float32"))
    assert np.array_equal(back.token_ids_T, arrays.token_ids_T)
    assert back.token_ids_T.dtype == np.int64
    assert np.array_equal(back.byte_ends_T, arrays.byte_ends_T)
    assert back.byte_ends_T.dtype == np.int64
    assert np.array_equal(back.top.ids_RK, arrays.top.ids_RK)
    assert np.array_equal(back.top.log_probs_RK, arrays.top.log_probs_RK)
    assert np.array_equal(back.next_log_probs_T, arrays.next_log_probs_T)


@given(tokens=st.integers(1, 20), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_float16_loses_at_most_half_a_unit_in_the_last_place_and_only_in_the_entries(
    tokens: int, k: int, seed: int
) -> None:
    arrays = arrays_of(tokens, k, seed)
    back = unpack("d", pack("d", arrays, "float16"))
    np.testing.assert_allclose(back.top.log_probs_RK, arrays.top.log_probs_RK, rtol=2**-11, atol=2**-24)
    assert np.array_equal(back.next_log_probs_T, arrays.next_log_probs_T)


def test_probabilities_past_float16_become_zero_and_stay_valid() -> None:
    top = TopK(np.array([[0, 1]]), np.array([[0.0, -1e5]], np.float32))
    zeros = np.zeros(1, np.int64)
    back = unpack("d", pack("d", Unpacked(zeros, zeros, top, np.zeros(1, np.float32)), "float16"))
    assert back.top.log_probs_RK.tolist() == [[0.0, -np.inf]]


def test_the_bytes_never_change() -> None:
    """A golden record: little-endian, row-major; captures made by other versions must stay readable."""
    top = TopK(np.array([[7, 258], [1, 0]]), np.array([[-0.5, -1.5], [-0.25, -2.0]], np.float32))
    arrays = Unpacked(np.array([1, 513]), np.array([0, 3]), top, np.array([-1.5, 0.0], np.float32))
    packed = pack("d", arrays, "float16")
    assert packed.token_ids.hex() == "0100000001020000"
    assert packed.byte_ends.hex() == "0000000003000000"
    assert packed.top_ids.hex() == "07000000020100000100000000000000"
    assert packed.top_log_probs.hex() == "00b800be00b400c0"
    assert packed.next_log_probs.hex() == "0000c0bf00000000"
    assert f"{packed.crc32:08x}" == "2bc333f8"


@pytest.mark.parametrize("name", ["token_ids", "byte_ends", "top_ids", "top_log_probs", "next_log_probs"])
@given(seed=st.integers(0, 9), bit=st.integers(0, 10**6))
def test_any_flipped_bit_is_found(name: str, seed: int, bit: int) -> None:
    packed = pack("d", arrays_of(5, 3, seed), "float16")
    data = bytearray(getattr(packed, name))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    with pytest.raises(Corrupt, match="CRC-32"):
        unpack("d", dataclasses.replace(packed, **{name: bytes(data)}))


def test_the_crc_covers_shape_format_and_document() -> None:
    packed = pack("d", arrays_of(4, 2, 0), "float16")
    others: list[tuple[str, dict[str, object]]] = [
        ("e", {}),
        ("d", {"tokens": 2, "top_k": 4}),
        ("d", {"top_k": 1, "log_probs": "float32"}),
    ]
    for document_id, changes in others:
        with pytest.raises(Corrupt, match="CRC-32"):
            unpack(document_id, dataclasses.replace(packed, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("log_probs", ["float16", "float32"])
def test_a_cut_array_is_refused_even_with_a_fitting_crc(log_probs: LogProbs) -> None:
    packed = pack("d", arrays_of(4, 2, 0), log_probs)
    with pytest.raises(Corrupt, match="has 4 bytes, expected 16"):
        unpack("d", damaged(packed, byte_ends=packed.byte_ends[:4]))


def test_values_that_make_no_sense_are_refused_even_with_a_fitting_crc() -> None:
    packed = pack("d", arrays_of(2, 2, 0), "float32")
    with pytest.raises(Corrupt, match="byte ends decrease"):
        unpack("d", damaged(packed, byte_ends=np.array([5, 3], "<u4").tobytes()))
    with pytest.raises(Corrupt, match="best first"):
        unpack("d", damaged(packed, top_log_probs=np.array([-3, -2, -1, -1], "<f4").tobytes()))
    with pytest.raises(Corrupt, match="NaN or positive"):
        unpack("d", damaged(packed, next_log_probs=np.array([np.nan, 0], "<f4").tobytes()))
    with pytest.raises(Corrupt, match="NaN or positive"):
        unpack("d", damaged(packed, top_log_probs=np.array([np.nan, -1, -1, -1], "<f4").tobytes()))
    with pytest.raises(Corrupt, match="add up to"):
        unpack("d", damaged(packed, top_log_probs=np.array([-0.1, -0.1, -1, -1], "<f4").tobytes()))


def test_arrays_that_do_not_fit_the_wire_are_refused_before_they_travel() -> None:
    arrays = arrays_of(3, 2, 0)
    with pytest.raises(ValueError, match="do not fit 32 unsigned bits"):
        pack("d", dataclasses.replace(arrays, token_ids_T=np.array([0, 1, 2**32])), "float16")
    with pytest.raises(ValueError, match="lengths"):
        pack("d", dataclasses.replace(arrays, byte_ends_T=np.array([0, 1])), "float16")
