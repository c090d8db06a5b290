"""Packed documents give what each gives alone, on every architecture, or they are not packed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from fusery.core.loss import loss_of_hidden, loss_of_logits
from fusery.core.objective import Objective, Partitions
from fusery.core.rules import Tail
from fusery.models.head import SplitModel, split
from fusery.models.loading import load_model
from fusery.runtime.errors import ModelError
from fusery.trainer import batches
from fusery.trainer.batches import Packing, build, hidden_states, prove_packing, rows_for
from fusery.trainer.order import pack
from support.models import pico_models
from support.models.training_data import pico_documents, pico_partitions


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(architecture: str) -> SplitModel:
    return split(load_model(str(pico_models.pico_model(architecture))))


def loss_of(model: SplitModel, packing: Packing) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of one fused batch of several sequences under a packing."""
    documents = pico_documents("byte_level", 12)
    sequences = pack(range(12), [len(d.token_ids_N) for d in documents], 60)
    batch = build(rows_for(sequences, packing), documents, with_evidence=True)
    hidden = hidden_states(model, batch, packing).flatten(0, 1)
    common = (batch.labels_BT.flatten(), batch.evidence, Partitions.of(pico_partitions(300)), Objective(0.5, Tail.TAIL))
    loss, _ = loss_of_logits(hidden, *common) if model.head is None else loss_of_hidden(hidden, model.head, *common)
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    return float(loss.detach()), list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("architecture", pico_models.ARCHITECTURES)
def test_a_packed_batch_has_the_loss_and_gradients_of_an_unpacked_one(architecture: str) -> None:
    model = load(architecture)
    packing = prove_packing(model, 60, 40)
    assert packing is not Packing.SINGLE
    packed, packed_grads = loss_of(model, packing)
    single, single_grads = loss_of(model, Packing.SINGLE)
    assert packed == pytest.approx(single, rel=1e-5)
    for got, want in zip(packed_grads, single_grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", pico_models.ARCHITECTURES)
def test_each_document_of_a_packed_row_has_the_logits_it_has_alone(architecture: str, implementation: str) -> None:
    """MPT reads a mask of booleans the other way round than sdpa's; transformers gives it eager attention only."""
    place = str(pico_models.pico_model(architecture))
    if (architecture, implementation) == ("mpt", "sdpa"):
        with pytest.raises(ModelError, match="does not support"):
            load_model(place, attention=implementation)
        return
    model = split(load_model(place, attention=implementation))
    documents = pico_documents("byte_level", 5)
    lengths = [len(document.token_ids_N) for document in documents]
    (sequence,) = pack(range(5), lengths, sum(lengths))
    batch = build([sequence], documents, with_evidence=False)
    packing = prove_packing(model, sum(lengths), 40)
    assert packing is not Packing.SINGLE
    with torch.no_grad():
        packed = model.logits(hidden_states(model, batch, packing)[0])
        for number, index in enumerate(sequence):
            ids = torch.from_numpy(documents[index].token_ids_N)[None]
            alone = model.model(input_ids=ids, use_cache=False).logits[0]
            torch.testing.assert_close(packed[batch.documents_BT[0] == number], alone, rtol=1e-3, atol=1e-3)


def test_a_model_whose_head_stays_on_packs_too() -> None:
    model = load("llama")
    whole = SplitModel(model.model, model.model, None)
    assert prove_packing(whole, 60, 40) is Packing.MASK
    assert loss_of(whole, Packing.MASK)[0] == pytest.approx(loss_of(model, Packing.MASK)[0], rel=1e-5)


def test_a_sliding_window_is_not_overruled_by_a_mask() -> None:
    """A mask for all layers would widen Gemma's windows, which only a document longer than the window shows."""
    model = load("gemma3")
    assert prove_packing(model, 200, 100) is Packing.POSITIONS
    assert prove_packing(model, 24, 8) is Packing.MASK


def test_a_model_that_can_not_pack_gets_a_row_per_document(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("mpt")

    def refuses(_model: SplitModel, _batch: object) -> torch.Tensor:
        raise ValueError("this model takes no such mask")

    monkeypatch.setitem(batches._FORWARD, Packing.MASK, refuses)
    with caplog.at_level(logging.WARNING):
        assert prove_packing(model, 60, 40) is Packing.SINGLE
    assert "mask: ValueError: this model takes no such mask" in caplog.text
    assert "positions: hidden states differ" in caplog.text


def test_the_proof_leaves_training_mode_as_it_was() -> None:
    model = load("gpt2")
    model.model.train()
    assert prove_packing(model, 60, 40) is Packing.MASK
    assert model.model.training


def test_single_rows_keep_the_order_of_documents() -> None:
    assert rows_for([(3, 1), (2,)], Packing.SINGLE) == [(3,), (1,), (2,)]
    assert rows_for([(3, 1), (2,)], Packing.MASK) == [(3, 1), (2,)]
