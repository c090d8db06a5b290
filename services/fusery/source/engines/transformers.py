"""The model behind a source server: text in, distributions out, one request one batch.

Logits depend on the make-up of a batch to the last bit, so nothing here looks beyond the request, and the
head's row chunks have a size that only the vocabulary decides. The dense [B, T, V] never exists.

Dimensions: B documents, T tokens, N real tokens of the batch, R rows of a chunk, V vocabulary, K entries kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fusery.core.rules import Dtype
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import TopK
from fusery.models.checkpoint import local_folder
from fusery.models.head import SplitModel, split
from fusery.models.inspect import Checkpoint, inspect_checkpoint
from fusery.models.loading import load_model, weights_fingerprint
from fusery.runtime.errors import InvalidInput, ModelError
from fusery.source.api import Distributions, Document, Limits, ModelDescription, check_request, check_tokens

_CHUNK_LOGITS = 1 << 24
"""Logits made at a time: 64 MiB in float32, and twice that for their order."""


@dataclass(frozen=True, slots=True, eq=False)
class TransformersEngine:
    """A transformers causal LM on one device."""

    model: ModelDescription
    tokenizer: ByteTokenizer
    network: SplitModel

    @torch.inference_mode()
    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        """Log-probabilities are the log-softmax over the whole vocabulary at temperature 1, in float32.

        Raises:
            InvalidInput, TooLarge: the request is not one that this model can answer.
            ModelError: the model gives NaN.
        """
        check_request(documents, top_k, self.model)
        texts = self.tokenizer.tokenize_batch(
            [document.text for document in documents], [document.id for document in documents]
        )
        lengths = [len(text.ids_T) for text in texts]
        check_tokens(documents, lengths, top_k, self.model)
        self._check_ids(documents, texts)
        top, next_log_probs_N = self._rows(texts, lengths, top_k)
        answers, start = [], 0
        for document, text, length in zip(documents, texts, lengths, strict=True):
            rows = slice(start, start + length)
            kept = TopK(top.ids_RK[rows], top.log_probs_RK[rows])
            answers.append(Distributions(document.id, text.ids_T, text.byte_ends_T, kept, next_log_probs_N[rows]))
            start += length
        return answers

    def _check_ids(self, documents: Sequence[Document], texts: Sequence[TokenizedText]) -> None:
        for document, text in zip(documents, texts, strict=True):
            if (largest := int(text.ids_T.max())) >= self.model.vocabulary_size:
                raise InvalidInput(
                    f"document {document.id!r}: token {largest} of the tokenizer is past the "
                    f"{self.model.vocabulary_size} embeddings of {self.model.name}; leave this document out"
                )

    def _rows(
        self, texts: Sequence[TokenizedText], lengths: Sequence[int], top_k: int
    ) -> tuple[TopK, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        """Entries [N, K] and next-token log-probabilities float32 [N] of all documents' tokens, one after the other."""
        device = next(self.network.model.parameters()).device
        ids_BT, mask_BT, next_ids_BT = (array.to(device) for array in _padded(texts, lengths))
        hidden_BTD = self.network.hidden(ids_BT, mask_BT)
        real_BT = mask_BT.bool()
        # A model over several devices gives its hidden states on the last one.
        hidden_ND, next_ids_N = hidden_BTD[real_BT.to(hidden_BTD.device)], next_ids_BT[real_BT].to(hidden_BTD.device)
        chunk_rows = max(1, _CHUNK_LOGITS // self.model.vocabulary_size)
        chunks = [
            self._chunk(hidden_RD, next_ids_R, top_k)
            for hidden_RD, next_ids_R in zip(
                torch.split(hidden_ND, chunk_rows), torch.split(next_ids_N, chunk_rows), strict=True
            )
        ]
        ids_NK, log_probs_NK, next_N = (torch.cat(parts).cpu().numpy() for parts in zip(*chunks, strict=True))
        next_N[np.cumsum(lengths) - 1] = 0.0
        return TopK(ids_NK, log_probs_NK), next_N

    def _chunk(self, hidden_RD: Tensor, next_ids_R: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
        logits_RV = self.network.logits(hidden_RD)
        lse_R1 = logits_RV.logsumexp(dim=1, keepdim=True)
        if not bool(lse_R1.isfinite().all()):
            raise ModelError(
                f"{self.model.name}: its logits are not finite in {self.model.dtype}; serve it with another dtype"
            )
        ids_RK = top_ids(logits_RV, top_k)
        # Rounding can put the log-probability of a certain token a hair over 0.
        log_probs_RK = (logits_RV.gather(1, ids_RK) - lse_R1).clamp_max(0.0)
        next_R = (logits_RV.gather(1, next_ids_R[:, None]) - lse_R1).clamp_max(0.0)
        return ids_RK, log_probs_RK, next_R.squeeze(1)


def top_ids(logits_RV: Tensor, top_k: int) -> Tensor:
    """Ids of the k largest float32 logits of each row, int64 [R, K], largest first; equal logits by id.

    torch.topk orders equal values as it likes, and may leave out any of those equal to the k-th. In bfloat16
    equal logits are the rule.
    """
    # One more than asked for tells whether the k-th is cut off among its equals, without another look at all of V.
    best = logits_RV.topk(min(top_k + 1, logits_RV.shape[1]), dim=1)
    values_RK, ids_RK = best.values, best.indices
    equals_R = (values_RK[:, 1:] == values_RK[:, :-1]).any(dim=1)
    if bool(equals_R.any()):
        ids_RK[equals_R] = _ordered_by_id(values_RK[equals_R], ids_RK[equals_R])
        if top_k < logits_RV.shape[1]:
            cut_R = values_RK[:, top_k] == values_RK[:, top_k - 1]
            ids_RK[cut_R, :top_k] = _top_ids_by_key(logits_RV[cut_R], top_k)
    return ids_RK[:, :top_k]


def _ordered_by_id(values_RK: Tensor, ids_RK: Tensor) -> Tensor:
    """The ids, those of equal values ascending."""
    by_id = ids_RK.sort(dim=1)
    order_RK = values_RK.gather(1, by_id.indices).sort(dim=1, descending=True, stable=True).indices
    return by_id.values.gather(1, order_RK)


def _top_ids_by_key(logits_RV: Tensor, top_k: int) -> Tensor:
    """As `top_ids`, exact in all cases, at several times the price of torch.topk.

    Rows are ordered by a 64-bit integer: the float's bits made monotone, then the id, the smaller the better.
    """
    bits_RV = (logits_RV + 0.0).view(torch.int32)  # + 0.0: -0 and 0 are equal, their bits are not
    ordered_RV = (bits_RV ^ ((bits_RV >> 31) & 0x7FFFFFFF)).long()
    descending_V = torch.arange(logits_RV.shape[1] - 1, -1, -1, device=logits_RV.device)
    keys_RK = (ordered_RV << 32 | descending_V).topk(top_k, dim=1).values
    return logits_RV.shape[1] - 1 - (keys_RK & 0xFFFFFFFF)


def _padded(texts: Sequence[TokenizedText], lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and next token ids, int64 [B, T], padded on the right with 0.

    On the right, because then positions count from 0 in every architecture without being told.
    """
    ids_BT = np.zeros((len(texts), max(lengths)), np.int64)
    mask_BT, next_ids_BT = np.zeros_like(ids_BT), np.zeros_like(ids_BT)
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        ids_BT[row, :length] = text.ids_T
        next_ids_BT[row, : length - 1] = text.ids_T[1:]
        mask_BT[row, :length] = 1
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT), torch.from_numpy(next_ids_BT)


def load_engine(
    model: str,
    revision: str | None = None,
    dtype: Dtype = Dtype.FLOAT32,
    *,
    attention: str | None = None,
    device: str | None = None,
    name: str | None = None,
    limits: Limits | None = None,
) -> TransformersEngine:
    """The engine of a checkpoint; `device` as torch names it, `auto`: over all GPUs, None: a GPU if there is one.

    Raises:
        ModelError: the checkpoint can't be used.
    """
    folder = str(local_folder(model, revision))
    checkpoint = inspect_checkpoint(folder)
    network = load_model(folder, None, dtype, attention, device)
    fingerprint = weights_fingerprint(folder, None, dtype)
    return engine_of(network, checkpoint, fingerprint, dtype, name or Path(model).name, revision, limits)


def engine_of(
    network: PreTrainedModel,
    checkpoint: Checkpoint,
    weights_fingerprint: str,
    dtype: Dtype,
    name: str,
    revision: str | None = None,
    limits: Limits | None = None,
) -> TransformersEngine:
    """The engine of a model that is loaded."""
    description = ModelDescription(
        name=name,
        revision=revision,
        weights_fingerprint=weights_fingerprint,
        tokenizer_fingerprint=checkpoint.tokenizer.fingerprint,
        architecture=checkpoint.architecture,
        vocabulary_size=checkpoint.vocabulary_size,
        context_length=checkpoint.context_length,
        dtype=dtype.value,
        prefix_ids=tuple(checkpoint.tokenizer.prefix_ids.tolist()),
        limits=limits or Limits(),
    )
    return TransformersEngine(description, checkpoint.tokenizer, split(network))
