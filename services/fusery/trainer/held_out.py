"""Held-out text in the target's tokens, measured while the training goes: mean nats per predicted token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator

from fusery.core.fusion import Evidence
from fusery.core.topk import IntArray, TopK
from fusery.trainer.attention import Packing, rows_for
from fusery.trainer.data import Batch, build
from fusery.trainer.order import Packed, pack


@dataclass(frozen=True, slots=True)
class _Document:
    doc_id: str
    token_ids_N: IntArray
    evidence: Evidence


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Documents that are measured, packed; the end of one that is longer than a sequence is left out."""

    documents: tuple[_Document, ...]
    sequences: tuple[Packed, ...]

    @classmethod
    def of(cls, token_ids: Sequence[IntArray], capacity: int) -> HeldOut:
        none = np.zeros(0, np.int64)
        nothing = Evidence(none, none, none.astype(np.float32), TopK(none[:, None], none[:, None].astype(np.float32)))
        documents = tuple(_Document(f"held-out-{i}", ids[:capacity], nothing) for i, ids in enumerate(token_ids))
        lengths = [len(document.token_ids_N) for document in documents]
        return cls(documents, tuple(pack(range(len(documents)), lengths, capacity)))

    def batches(self, size: int, packing: Packing, process: int, processes: int) -> list[Batch]:
        """This process's share; every process has as many, some perhaps without a label."""
        parts = [self.sequences[start : start + size] for start in range(0, len(self.sequences), size)]
        found = []
        for first in range(0, len(parts), processes):
            own = parts[first + process] if first + process < len(parts) else parts[0]
            is_blank = first + process >= len(parts)
            found.append(build(rows_for(own, packing), self.documents, with_evidence=False, blank=is_blank))
        return found


@torch.no_grad()
def measure(module: torch.nn.Module, batches: Sequence[Batch], accelerator: Accelerator, use_bfloat16: bool) -> float:
    """Mean nats per predicted token of the batches of all processes; dropout off, nothing else changed."""
    total = torch.zeros(7, dtype=torch.float64, device=accelerator.device)
    module.train(False)
    try:
        for batch in batches:
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=use_bfloat16):
                total += module(batch.to(accelerator.device), 1.0)[1]
    finally:
        module.train(True)
    clm_nats, rows = accelerator.reduce(total, "sum")[1:3].tolist()
    return float(clm_nats / max(rows, 1.0))
