"""The training loop: a step is a pure function of the seed, the step's number and the state before it.

So a training that was killed and resumed ends with the same bytes as one that was not. One process, or several with
torchrun (data parallel: each takes its share of every batch; the gradient is that of the whole batch).
"""

from __future__ import annotations

import hashlib
import logging
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from fusery.config.sections import TrainingSpec
from fusery.core.loss import LossMeans, LossSums, loss_of_hidden, loss_of_logits
from fusery.core.objective import Objective, Partitions
from fusery.hops.store.lease import FolderLease
from fusery.models.head import Head, SplitModel
from fusery.runtime.errors import InvalidInput
from fusery.trainer import checkpoint
from fusery.trainer.batches import Batch, HeldOut, Packing, build, hidden_states, measure, rows_for
from fusery.trainer.checkpoint import Cursor, Writer
from fusery.trainer.documents import TrainingDocuments
from fusery.trainer.metrics import Alarms, MetricsLog, StepMetrics
from fusery.trainer.order import Packed, Schedule
from fusery.trainer.weights import (
    is_wanted,
    learning_rate,
    optimizer_for,
    peak_learning_rate,
    set_gradient_sync,
    shard,
    whole,
)

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 3
"""One bad batch is skipped; so many in a row mean that the weights or the learning rate are bad."""


class Diverged(InvalidInput):
    """Losses or gradients are not finite, step after step; the last good checkpoint is kept."""


class StopRequest(Protocol):
    """Whether someone asked the training to stop after the step at hand."""

    @property
    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """Everything that the loop needs and that stays the same from step to step."""

    model: SplitModel
    documents: TrainingDocuments
    partitions: Partitions
    schedule: Schedule
    packing: Packing
    spec: TrainingSpec
    seed: int
    clm_only: bool
    config: Mapping[str, Any]
    folder: Path
    held_out: HeldOut
    lease: FolderLease | None = None
    tracking_run: Callable[[], str | None] = lambda: None
    on_step: Callable[[StepMetrics], None] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


class ObjectiveModule(torch.nn.Module):
    """The target with its objective as one module, so that a data-parallel wrapper sees the whole step."""

    def __init__(self, training: Training, device: torch.device) -> None:
        super().__init__()
        self.target = training.model.model
        self._split = training.model
        self._packing = training.packing
        self._partitions = training.partitions.to(device)
        weight = 1.0 if training.clm_only else training.spec.clm_weight
        self._objective = Objective(weight, training.spec.tail, training.spec.temperature)

    def forward(self, batch: Batch, denominator: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) and its sums, as `core.loss` gives them."""
        hidden = hidden_states(self._split, batch, self._packing).flatten(0, 1)
        common = (batch.labels_BT.flatten(), batch.evidence, self._partitions, self._objective, denominator)
        head = self._head()
        loss, sums = loss_of_logits(hidden, *common) if head is None else loss_of_hidden(hidden, head, *common)
        return loss, sums.values

    def _head(self) -> Head | None:
        """The head with the weights as they are now: split ones are put together for the forward pass only."""
        head = self._split.head
        if head is None:
            return None
        projection: Any = self.target.get_output_embeddings()  # type: ignore[no-untyped-call]
        return replace(head, weight_VD=projection.weight, bias_V=projection.bias)


def run(training: Training, accelerator: Accelerator, stop: StopRequest) -> Cursor:
    """Trains from the newest checkpoint, or from the start, to the last step or until asked to stop.

    Raises:
        Diverged: several steps in a row were not finite.
        Mismatch: the folder holds checkpoints of another configuration.
    """
    return _Run(training, accelerator).run(stop)


class _Run:
    def __init__(self, training: Training, accelerator: Accelerator) -> None:
        self._training = training
        self._accelerator = accelerator
        training.model.model.to(accelerator.device)
        self._module = ObjectiveModule(training, accelerator.device)
        self._module.train()
        self._is_sharded = is_wanted(accelerator)
        if self._is_sharded:
            shard(self._module, training.model.model, accelerator)
        self._optimizer = optimizer_for(self._module.parameters(), training.spec)
        self._peak = peak_learning_rate(training.spec, training.clm_only)
        self._alarms = Alarms()
        self._cursor = self._resume()
        self._writer = Writer(beside=writes_beside(accelerator.device))
        self._wrapped: torch.nn.Module = self._module if self._is_sharded else accelerator.prepare_model(self._module)

    def _resume(self) -> Cursor:
        found = checkpoint.newest(self._training.checkpoints, self._training.config)
        if found is None:
            return Cursor()
        checkpoint.restore(found, self._module, self._optimizer)
        log.info("resuming after step %d of %d", found.cursor.step, self._training.schedule.steps)
        return found.cursor

    def run(self, stop: StopRequest) -> Cursor:
        if not self._accelerator.is_main_process:
            return self._steps(stop, None)
        with self._writer, MetricsLog(self._training.folder / "metrics.jsonl", self._cursor.step) as metrics:
            return self._steps(stop, metrics)

    def _steps(self, stop: StopRequest, metrics: MetricsLog | None) -> Cursor:
        every = self._training.spec.checkpoint_every_steps
        for step in range(self._cursor.step, self._training.schedule.steps):
            line, is_asked = self._step(step, stop)
            line = replace(line, held_out_nats=self._measured(step), time_s=time.time())
            if metrics is not None:
                metrics.write(line)
                self._alarms.look(line)
                if self._training.on_step is not None:
                    self._training.on_step(line)
            self._check_divergence()
            self._writer.check()
            if self._training.lease is not None:
                self._training.lease.check()
            if is_asked or (step + 1) % every == 0:
                self._save(line.held_out_nats)
            if is_asked:
                break
        self._writer.wait()
        # A process that ended earlier would make torchrun end the one that writes.
        self._accelerator.wait_for_everyone()
        return self._cursor

    def _measured(self, step: int) -> float | None:
        """The held-out loss after this step, if it is time for it."""
        training, spec = self._training, self._training.spec
        every = spec.evaluate_every_steps
        if (
            every is None
            or not training.held_out.sequences
            or ((step + 1) % every and step + 1 < training.schedule.steps)
        ):
            return None
        size = spec.micro_batch_sequences or spec.batch_sequences
        own = self._accelerator.process_index, self._accelerator.num_processes
        batches = training.held_out.batches(size, training.packing, *own)
        return _finite(measure(self._wrapped, batches, self._accelerator, spec.dtype == "bfloat16"))

    def _step(self, step: int, stop: StopRequest) -> tuple[StepMetrics, bool]:
        """One optimizer step; what there is to say of it, and whether any process was asked to stop."""
        started = time.perf_counter()
        schedule, batch = self._training.schedule, self._training.schedule.batch(step)
        lengths = [int(schedule.layout.lengths_D[i]) for sequence in batch for i in sequence]
        labelled = sum(max(0, length - 1) for length in lengths)
        rate = learning_rate(self._training.spec, self._peak, step, schedule.steps)
        # Dropout differs from step to step and from process to process, but not from run to run.
        torch.manual_seed(_seed_of(self._training.seed, step, self._accelerator.process_index))
        sums, is_asked = self._forward_backward(batch, float(max(1, labelled)), stop)
        norm = self._update(rate, is_finite=math.isfinite(float(sums.values[0])))
        seconds = time.perf_counter() - started
        self._advance(step, sum(lengths), seconds, is_skipped=norm is None)
        return self._metrics(sums.means(), norm, rate, sum(lengths), seconds), is_asked

    def _forward_backward(
        self, sequences: Sequence[Packed], denominator: float, stop: StopRequest
    ) -> tuple[LossSums, bool]:
        """Gradients of the whole batch's mean; its sums over all processes."""
        micro_batches = self._micro_batches(sequences)
        device, processes = self._accelerator.device, self._accelerator.num_processes
        total = torch.zeros(7, dtype=torch.float64, device=device)
        use_bfloat16 = self._training.spec.dtype == "bfloat16"
        for number, batch in enumerate(micro_batches, start=1):
            is_last = number == len(micro_batches)
            set_gradient_sync(self._module, is_last=is_last)
            is_alone = is_last or self._is_sharded
            with nullcontext() if is_alone else self._accelerator.no_sync(self._wrapped):
                # Data-parallel wrappers average gradients over processes; the mean over rows needs their sum.
                total += self._backward(batch, denominator / processes, use_bfloat16)
        told = torch.cat([total, torch.tensor([float(stop.is_set)], dtype=torch.float64, device=device)])
        told = self._accelerator.reduce(told, "sum")
        return LossSums(told[:7]), bool(told[7] > 0)

    def _backward(self, batch: Batch, denominator: float, use_bfloat16: bool) -> torch.Tensor:
        device = self._accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16):
            loss, sums = self._wrapped(batch.to(device), denominator)
        self._accelerator.backward(loss)
        result: torch.Tensor = sums
        return result

    def _micro_batches(self, sequences: Sequence[Packed]) -> list[Batch]:
        """This process's share of the step. A process without a share computes a batch without labels."""
        training = self._training
        own = list(sequences[self._accelerator.process_index :: self._accelerator.num_processes])
        size = training.spec.micro_batch_sequences or max(1, len(own))
        with_evidence = not training.clm_only
        if not own:
            rows = rows_for(sequences[:1], training.packing)
            return [build(rows, training.documents, with_evidence=with_evidence, blank=True)]
        parts = [rows_for(own[start : start + size], training.packing) for start in range(0, len(own), size)]
        return [build(rows, training.documents, with_evidence=with_evidence) for rows in parts]

    def _update(self, rate: float, *, is_finite: bool) -> float | None:
        """The gradient's norm before clipping; None if the step was skipped, and nothing changed."""
        most = self._training.spec.max_grad_norm
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self._module.parameters(), most)))
        is_good = is_finite and math.isfinite(norm)
        if is_good:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm if is_good else None

    def _advance(self, step: int, tokens: int, seconds: float, *, is_skipped: bool) -> None:
        before = self._cursor
        self._cursor = replace(
            before,
            step=step + 1,
            epoch=self._training.schedule.epoch(step),
            skipped=before.skipped + is_skipped,
            skipped_in_a_row=before.skipped_in_a_row + 1 if is_skipped else 0,
            tokens=before.tokens + tokens,
            elapsed_s=before.elapsed_s + seconds,
        )

    def _metrics(self, means: LossMeans, norm: float | None, rate: float, tokens: int, seconds: float) -> StepMetrics:
        is_skipped = norm is None
        said: dict[str, Any] = {
            name: _finite(getattr(means, name))
            for name in ("loss", "clm_nats", "fusion_nats", "kept_mass", "target_mass_on_support")
        }
        return StepMetrics(
            step=self._cursor.step,
            epoch=self._cursor.epoch,
            **said,
            learning_rate=rate,
            grad_norm=norm,
            tokens=tokens,
            tokens_per_s=tokens / max(seconds, 1e-9),
            elapsed_s=self._cursor.elapsed_s,
            skipped=is_skipped,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            peak_device_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
        )

    def _check_divergence(self) -> None:
        cursor = self._cursor
        if cursor.skipped_in_a_row:
            log.warning("step %d: loss or gradient not finite, %d steps skipped so far", cursor.step, cursor.skipped)
        if cursor.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"training diverged: loss or gradient not finite in {cursor.skipped_in_a_row} steps in a row, up to "
                f"step {cursor.step}; lower training.learning_rate (peak {self._peak:g}), or train in float32; "
                f"checkpoints before that are kept in {self._training.checkpoints}"
            )

    def _save(self, held_out_nats: float | None) -> None:
        best = self._cursor.best_nats
        if held_out_nats is not None and (best is None or held_out_nats < best):
            self._cursor = replace(self._cursor, best_step=self._cursor.step, best_nats=held_out_nats)
        self._cursor = replace(self._cursor, tracking_run=self._training.tracking_run())
        is_main = self._accelerator.is_main_process
        # Before there are other copies: memory holds those of one checkpoint.
        self._writer.wait()
        # Parts of split weights are put together by all processes, and written by one.
        if is_main or self._is_sharded:
            copies = self._writer.beside
            tensors = checkpoint.training_tensors(self._module, self._optimizer, keeps=is_main, copies=copies)
        if is_main:
            training, keep = self._training, self._training.spec.keep_checkpoints
            given = (training.checkpoints, self._cursor, tensors, training.config, keep)
            self._writer.write(partial(checkpoint.save, *given))
        self._accelerator.wait_for_everyone()


def writes_beside(device: torch.device) -> bool:
    """Whether checkpoints are written while the training goes on: where they are copies anyway."""
    return device.type != "cpu"


def _seed_of(seed: int, step: int, process: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{process}".encode(), digest_size=7).digest())


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
