"""The trainer's price: a fused step against a CLM step with the same head code, and against dense ways; the loader.

    python bench/train.py [--rounds 5] [--rows-scale 1.0]

A step here is the head alone, forward and backward: hidden states [N, D] to loss, dh and dW. The body costs both steps
the same, so a whole step's ratio is nearer to 1. D is small (512), which is hard on the ratio: with 2,048 or 4,096 the
products weigh more, and what fusion adds weighs less. Every row has evidence with a tail. Compared are, in one process
and by turns, CPU seconds (the least of some rounds) and the peak of resident memory above the tensors that stay:

  clm      the trainer's head code, no evidence
  tokens   the same, fused: one source, k entries that are tokens of the target
  cells    the same, fused: a partition as that of two real tokenizers (97 of 100 cells have one token)
  two      the same, fused: two sources with partitions of their own (AvgCE)
  plain    torch's cross_entropy over full logits, autograd
  dense    the paper's implementation: a dense target [N, V] from the sparse one, log_softmax and products, autograd

The loader reads fused shards from a store, checks, unpacks, packs and makes tensors: tokens per CPU second of one core.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from memory import peak_mb
from result_file import write_result
from torch.nn.functional import cross_entropy

from fusery.core.fusion import Evidence
from fusery.core.loss import MIN_CHUNK_ROWS, SparseEvidence, loss_of_hidden, loss_of_logits
from fusery.core.objective import Objective, Partitions
from fusery.core.rules import Tail
from fusery.core.topk import TopK
from fusery.hops.store import shards
from fusery.hops.store.shards import FusedDocument
from fusery.hops.store.store import Store
from fusery.models.head import Head
from fusery.trainer import order
from fusery.trainer.batches import build
from fusery.trainer.documents import Stored
from fusery.trainer.order import Schedule

WIDTH, CLM_WEIGHT = 512, 0.9
SHAPES = {"32k": (32_000, 512), "128k": (128_256, 224), "262k": (262_144, 128)}
KS = (10, 64)
LOADER_DOCUMENTS, LOADER_TOKENS, LOADER_SHARD = 512, 512, 64
Step = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One shape: the tensors that stay, and the steps that are compared on them."""

    hidden: torch.Tensor
    weight: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, vocabulary: int, rows: int) -> Case:
        torch.manual_seed(0)
        hidden, weight = torch.randn(rows, WIDTH), torch.randn(vocabulary, WIDTH) * 0.05
        return cls(hidden.requires_grad_(), weight.requires_grad_(), torch.randint(vocabulary, (rows,)))

    def ours(self, evidence: SparseEvidence | None, partitions: Partitions) -> Step:
        objective = Objective(CLM_WEIGHT if evidence is not None else 1.0, Tail.TAIL)
        head = Head(self.weight)
        return self._step(lambda: loss_of_hidden(self.hidden, head, self.labels, evidence, partitions, objective)[0])

    def plain(self) -> Step:
        return self._step(lambda: cross_entropy(self.hidden @ self.weight.T, self.labels))

    def dense(self, evidence: SparseEvidence) -> Step:
        rows, vocabulary = len(self.labels), len(self.weight)

        def loss() -> torch.Tensor:
            target = torch.zeros(rows, vocabulary)
            mass = evidence.log_probs_RK.exp()
            target.scatter_(1, evidence.ids_RK, mass / mass.sum(1, keepdim=True))
            logits = self.hidden @ self.weight.T
            fusion = -(target * torch.log_softmax(logits, 1)).sum(1).mean()
            return CLM_WEIGHT * cross_entropy(logits, self.labels) + (1 - CLM_WEIGHT) * fusion

        return self._step(loss)

    def _step(self, loss: Callable[[], torch.Tensor]) -> Step:
        def step() -> None:
            loss().backward()  # type: ignore[no-untyped-call]
            self.hidden.grad = self.weight.grad = None

        return step


def evidence_of(rows: int, cells: int, k: int, sources: int = 1) -> SparseEvidence:
    """k distinct cells with falling mass and a tail, for every row and source."""
    random = np.random.default_rng(k)
    total = rows * sources
    ids = np.stack([random.choice(cells, k, replace=False) for _ in range(total)])
    mass = np.sort(random.dirichlet(np.full(k + 1, 0.3), total)[:, :k], axis=1)[:, ::-1]
    log_probs = np.log(np.maximum(mass, 1e-12)).astype(np.float32)
    row_numbers, numbers = np.repeat(np.arange(rows), sources), np.tile(np.arange(sources), rows)
    weights = np.full(total, 1 / sources, np.float32)
    return SparseEvidence(
        *(torch.from_numpy(np.ascontiguousarray(a)) for a in (row_numbers, numbers, weights, ids, log_probs))
    )


def cells_of(vocabulary: int, seed: int) -> np.ndarray:
    """cell_of_target: 9 of 10 tokens alone in their cell, the others in cells of 2 to 40."""
    random = np.random.default_rng(seed)
    cells = np.arange(vocabulary)
    together = random.permutation(vocabulary)[: vocabulary // 10]
    sizes = random.zipf(1.7, len(together)).clip(2, 40)
    groups = np.repeat(np.arange(len(sizes)), sizes)[: len(together)]
    cells[together] = together[np.searchsorted(groups, groups)]
    return np.unique(cells, return_inverse=True)[1].astype(np.int64)


def steps_of(case: Case, k: int) -> dict[str, Step]:
    rows, vocabulary = len(case.labels), len(case.weight)
    tokens, sparse = Partitions.of([np.arange(vocabulary)]), evidence_of(rows, vocabulary, k)
    first, second = cells_of(vocabulary, 1), cells_of(vocabulary, 2)
    fewest = int(min(first.max(), second.max())) + 1
    return {
        "clm": case.ours(None, tokens),
        "tokens": case.ours(sparse, tokens),
        "cells": case.ours(evidence_of(rows, fewest, k), Partitions.of([first])),
        "two": case.ours(evidence_of(rows, fewest, k, sources=2), Partitions.of([first, second])),
        "plain": case.plain(),
        "dense": case.dense(sparse),
    }


def measured(steps: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds and peak megabytes of every step, measured by turns so that a busy machine is unfair to all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            begun = time.process_time()
            peak = peak_mb(step)
            # The first round fills caches and pools.
            if number:
                seconds[name].append(time.process_time() - begun)
                peaks[name].append(peak)
    # By rounds, and then the middle one: whatever slowed a round down slowed both sides of its ratio.
    return {
        name: {
            "cpu_s": min(seconds[name]),
            "time_to_clm": float(np.median(np.divide(seconds[name], seconds["clm"]))),
            "peak_mb": float(np.median(peaks[name])),
            "memory_to_clm": float(np.median(peaks[name]) / np.median(peaks["clm"])),
        }
        for name in steps
    }


def parts_table() -> list[dict[str, Any]]:
    """CPU milliseconds of one chunk's loss and dz, fused and CLM, beside the chunk's three products.

    The least of many short measures: a busy machine moves it less than it moves whole steps. With the products' time it
    gives the step's ratio.
    """
    table = []
    for title, (vocabulary, _) in SHAPES.items():
        case = Case.of(vocabulary, MIN_CHUNK_ROWS)
        products = least_ms(partial(three_products, case.hidden.detach(), case.weight.detach()))
        logits = torch.randn(MIN_CHUNK_ROWS, vocabulary)
        cells = cells_of(vocabulary, 1)
        for k in KS:
            clm = least_ms(chunk_of(logits, case.labels, None, Partitions.of([cells])))
            for name, cell_of_target in (("tokens", np.arange(vocabulary)), ("cells", cells)):
                evidence = evidence_of(MIN_CHUNK_ROWS, int(cell_of_target.max()) + 1, k)
                fused = least_ms(chunk_of(logits, case.labels, evidence, Partitions.of([cell_of_target])))
                ratio = (products + fused) / (products + clm)
                figures = {"products_ms": products, "clm_ms": clm, "fused_ms": fused, "time_to_clm": ratio}
                table.append({"vocabulary": title, "k": k, "step": name, **figures})
                print(
                    f"chunk V={title:5} k={k:<3} {name:7} products {products:6.1f} ms, loss and dz {clm:5.1f} ms, "
                    f"fused {fused:5.1f} ms: {ratio:.3f} × CLM",
                    flush=True,
                )
    return table


def three_products(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    """Logits, dh and dW of a chunk, without anything between them."""
    logits = hidden @ weight.T
    logits @ weight
    logits.T @ hidden


def chunk_of(logits: torch.Tensor, labels: torch.Tensor, evidence: SparseEvidence | None, cells: Partitions) -> Step:
    objective = Objective(CLM_WEIGHT if evidence is not None else 1.0, Tail.TAIL)

    def step() -> None:
        loss_of_logits(logits.requires_grad_(), labels, evidence, cells, objective)

    return step


def least_ms(function: Callable[[], object], repeats: int = 12) -> float:
    spent = []
    for _ in range(repeats):
        begun = time.thread_time()
        function()
        spent.append(time.thread_time() - begun)
    return 1000 * min(spent)


def head_table(rounds: int, scale: float) -> list[dict[str, Any]]:
    table = []
    for title, (vocabulary, rows) in SHAPES.items():
        case = Case.of(vocabulary, max(1, int(rows * scale)))
        for k in KS:
            for name, figures in measured(steps_of(case, k), rounds).items():
                table.append({"vocabulary": title, "rows": len(case.labels), "k": k, "step": name, **figures})
                print(
                    f"V={title:5} k={k:<3} {name:7} {figures['cpu_s']:7.3f} s  {figures['time_to_clm']:5.2f} × CLM   "
                    f"{figures['peak_mb']:7.0f} MB  {figures['memory_to_clm']:5.2f} × CLM",
                    flush=True,
                )
    return table


def fused_shard(number: int, k: int) -> list[FusedDocument]:
    random = np.random.default_rng(number)
    documents = []
    for index in range(LOADER_SHARD):
        size = int(random.integers(LOADER_TOKENS // 2, LOADER_TOKENS))
        positions = np.arange(size - 1)
        ids = np.argsort(random.random((size - 1, 2 * k)), axis=1)[:, :k] + 17
        mass = np.sort(random.dirichlet(np.full(k + 1, 0.3), size - 1)[:, :k], axis=1)[:, ::-1]
        top = TopK(ids, np.log(np.maximum(mass, 1e-12)).astype(np.float32))
        evidence = Evidence(positions, np.zeros_like(positions), np.ones(size - 1, np.float32), top)
        tokens = random.integers(0, 32_000, size)
        documents.append(FusedDocument(f"d{number}-{index}", "bench", tokens, evidence))
    return documents


def loader_table() -> list[dict[str, Any]]:
    """Tokens per CPU second from a store to tensors, and peak memory, for a corpus and for one four times as large."""
    table = []
    for k in KS:
        for documents in (LOADER_DOCUMENTS, 4 * LOADER_DOCUMENTS):
            with tempfile.TemporaryDirectory() as folder:
                store = Store(folder)
                names = [f"fused/bench/shard-{number:05d}.parquet" for number in range(documents // LOADER_SHARD)]
                for number, name in enumerate(names):
                    made, meta = fused_shard(number, k), {"target": "bench"}
                    store.publish(name, shards.write_fused(made, meta), meta | shards.fused_facts(made))
                figures: dict[str, float] = {}
                peak = peak_mb(partial(read_all, store, names, figures))
                table.append({"k": k, **figures, "peak_mb": peak})
                print(
                    f"loader k={k:<3} {figures['tokens']:>9,.0f} tokens   first look "
                    f"{figures['tokens'] / figures['index_cpu_s']:>9,.0f} tokens/s   "
                    f"an epoch {figures['tokens'] / figures['epoch_cpu_s']:>9,.0f} tokens/s   peak {peak:5.0f} MB",
                    flush=True,
                )
    return table


def read_all(store: Store, names: list[str], figures: dict[str, float]) -> None:
    """The first look at the corpus, and one epoch of batches; their CPU seconds into `figures`."""
    begun = time.process_time()
    documents = Stored(store, names, {"target": "bench"})
    looked = time.process_time()
    plan = Schedule.of(documents.layout, 2048, 8, 1, 0)
    documents.hold(plan.window_shards)
    for step in range(plan.steps):
        build(plan.batch(step), documents, with_evidence=True)
    figures["tokens"] = float(documents.layout.lengths_D.sum())
    figures["index_cpu_s"], figures["epoch_cpu_s"] = looked - begun, time.process_time() - looked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows-scale", type=float, default=1.0)
    parser.add_argument("--only", choices=("head", "loader", "parts"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    # A window of a quarter of its usual size: the larger of the two corpora then has several.
    order.WINDOW_TOKENS = 2**18
    parts = parts_table() if given.only in (None, "parts") else []
    loader = loader_table() if given.only in (None, "loader") else []
    head = head_table(given.rounds, given.rows_scale) if given.only in (None, "head") else []
    if given.only is not None:
        return
    fused = [row for row in head if row["step"] in ("tokens", "cells")]
    worst = max(row["time_to_clm"] for row in parts)
    write_result(
        "train",
        measure="CPU time of a fused head step to that of a CLM step, the most over V, k, tokens, cells; from parts",
        value=round(worst, 3),
        unit="share",
        baseline={"what": "the CLM step with the same code", "value": 1.0, "unit": "share"},
        ratio=round(worst, 3),
        goal="time at most 1.03, extra peak memory at most 1.0; loader at least 50,000 tokens/s per core",
        whole_steps_to_clm=round(float(np.median([row["time_to_clm"] for row in fused])), 3),
        most_memory_to_clm=round(max(row["memory_to_clm"] for row in fused), 3),
        loader_tokens_per_s=round(min(row["tokens"] / row["epoch_cpu_s"] for row in loader)),
        parts=parts,
        table=head,
        loader=loader,
    )


if __name__ == "__main__":
    main()
