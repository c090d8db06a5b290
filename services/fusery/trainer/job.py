"""A training as a job: in goes a target and documents, out comes a model folder that transformers loads as it is.

    output/
      model/          config.json, model.safetensors, tokenizer, README.md
      metrics.jsonl   one line per step
      result.json     written last: what stands here is done
      checkpoints/    to resume from
      tracking.json   the run in MLflow, if there is one

Started again with the same configuration, a job goes on where it stopped, or returns at once if it is done.
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fusery.config.sections import TrainingSpec
from fusery.core.objective import Partitions
from fusery.core.topk import IntArray
from fusery.hops.store.lease import FolderLease
from fusery.models.causality import check_causal
from fusery.models.checkpoint import context_length
from fusery.models.head import split
from fusery.models.loading import load_model
from fusery.registry.follow import Followed, Follower, is_followed
from fusery.registry.model_card import Lineage, TrainedModel
from fusery.runtime.errors import Interrupted, InvalidInput, Mismatch
from fusery.runtime.stop_signals import taken
from fusery.runtime.text.json import read_json_object
from fusery.trainer import checkpoint, group, weights
from fusery.trainer.batches import HeldOut, prove_packing, vocabulary_size
from fusery.trainer.checkpoint import Cursor
from fusery.trainer.documents import Limits, TrainingDocuments
from fusery.trainer.export import export
from fusery.trainer.loop import Training, run
from fusery.trainer.metrics import StepMetrics
from fusery.trainer.order import Schedule

log = logging.getLogger(__name__)

TERMINATED_EXIT_CODE = 143
"""128 + SIGTERM: the training wrote a checkpoint and wants to be started again. Not a failure of the job."""


class Terminated(Interrupted):
    """SIGTERM: the step was finished and a checkpoint written; the same command goes on from there."""

    exit_code = TERMINATED_EXIT_CODE


@dataclass(frozen=True, slots=True, eq=False)
class TrainJob:
    """One training. `partitions`: cell_of_target [V] of each source, in the order that the evidence counts them.

    `clm_only`: the baseline, λ = 1 on the same tokens in the same steps. `threads`: None leaves torch's choice.
    `held_out`: token ids of documents to measure on now and then. `tracking`: where MLflow's records go.
    `lineage`: what the model's card says of its origin.
    """

    target: str
    output: Path
    documents: TrainingDocuments
    partitions: Sequence[IntArray]
    training: TrainingSpec
    config_digest: str
    revision: str | None = None
    seed: int = 0
    clm_only: bool = False
    threads: int | None = None
    held_out: Sequence[IntArray] = ()
    tracking: Followed | None = None
    lineage: Lineage | None = None
    on_step: Callable[[StepMetrics], None] | None = None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished training says of itself; `weights_digest` is the SHA-256 over the model's weight files."""

    model: Path
    metrics: Path
    steps: int
    skipped_steps: int
    tokens: int
    elapsed_s: float
    weights_digest: str


def train(job: TrainJob) -> TrainResult:
    """The trained model in `job.output`, resumed from its checkpoints where there are any.

    Raises:
        ModelError: the target sees later tokens of the text.
        InvalidInput: the target, the documents or the partitions can't be trained on, or the training diverged.
        Mismatch: the output folder belongs to another configuration.
        Interrupted: asked to stop (SIGINT; SIGTERM raises its subclass `Terminated`); a checkpoint is written.
        Occupied: another trainer works in the output folder.
        StoreFull: there is no room for a checkpoint.
    """
    done = _finished(job)
    if done is not None:
        _follow_to_the_end(job)
        return done
    job.output.mkdir(parents=True, exist_ok=True)
    accelerator = group.form(job.threads)
    weights.check_sharding(accelerator, job.training)
    is_main = accelerator.is_main_process
    with _threads(job.threads), _signals() as signals, FolderLease(job.output) if is_main else nullcontext() as lease:
        training, adapted = _prepared(job)
        with _followed(job, training) if is_main else nullcontext() as follower:
            training = replace(training, lease=lease, tracking_run=_run_of(follower))
            cursor = run(training, accelerator, signals)
            if cursor.step < training.schedule.steps:
                signals.raise_for(cursor, training.schedule.steps)
            if adapted is not None:
                weights.merge_adapters(adapted)
            state = weights.whole_state(training.model.model, keeps=is_main)
            if is_main:
                _publish(job, training, cursor, state)
        accelerator.wait_for_everyone()
    result = _finished(job)
    if result is None:
        raise AssertionError(f"{job.output} has no result after a finished training")
    return result


def _prepared(job: TrainJob) -> tuple[Training, Any]:
    """Everything checked and proved before the first step; and what the adapters are, if there are any."""
    model = split(load_model(job.target, job.revision))
    check_causal(model.model, f"target {job.target}")
    config = model.model.config.get_text_config(decoder=True)
    capacity = job.training.sequence_tokens(context_length(config))
    vocabulary = vocabulary_size(model)
    partitions = Partitions.of(job.partitions)
    if partitions.vocabulary > vocabulary:
        raise Mismatch(
            f"a partition has cells of token {partitions.vocabulary - 1}, the target has {vocabulary} tokens; "
            "build the vocabulary maps again for this target"
        )
    layout = job.documents.layout
    job.documents.check(Limits(capacity, vocabulary, len(job.partitions)))
    packing = prove_packing(model, capacity, int(layout.lengths_D.max()))
    schedule = Schedule.of(layout, capacity, job.training.batch_sequences, job.training.epochs, job.seed)
    job.documents.hold(schedule.window_shards)
    log.info("%d documents, %d steps, documents kept apart by %s", len(layout.lengths_D), schedule.steps, packing.value)
    if job.training.gradient_checkpointing:
        model.model.activation_checkpointing_enable({"use_reentrant": False})
    spec, rank = job.training, job.training.lora_rank
    adapted = None if rank is None else weights.add_adapters(model.model, rank, spec.lora_alpha, job.seed)
    training = Training(
        model=model,
        documents=job.documents,
        partitions=partitions,
        schedule=schedule,
        packing=packing,
        spec=job.training,
        seed=job.seed,
        clm_only=job.clm_only,
        config=_configuration(job),
        folder=job.output,
        held_out=HeldOut.of(job.held_out if spec.evaluate_every_steps else (), capacity),
        on_step=job.on_step,
    )
    return training, adapted


def _followed(job: TrainJob, training: Training) -> Follower | nullcontext[None]:
    if job.tracking is None:
        return nullcontext()
    newest = checkpoint.newest(training.checkpoints, training.config)
    return Follower(job.output, job.tracking, None if newest is None else newest.cursor.tracking_run)


def _run_of(follower: Follower | None) -> Callable[[], str | None]:
    return (lambda: None) if follower is None else follower.run_id


def _follow_to_the_end(job: TrainJob) -> None:
    """Sends MLflow what it did not get while the training went on."""
    if job.tracking is not None and not is_followed(job.output):
        with Follower(job.output, job.tracking, None):
            pass


def _configuration(job: TrainJob) -> dict[str, Any]:
    """What decides the trained bytes, as JSON values; a checkpoint is resumed only if all of it is the same.

    Without the target's place, so that a run can be moved; the digest covers what the target is.
    """
    values = {
        "config_digest": job.config_digest,
        "seed": job.seed,
        "clm_only": job.clm_only,
        "documents": job.documents.digest,
        **{f"training.{key}": value for key, value in job.training.model_dump(mode="json").items()},
    }
    checked: dict[str, Any] = json.loads(json.dumps(values))
    return checked


def _publish(job: TrainJob, training: Training, cursor: Cursor, state: Mapping[str, torch.Tensor]) -> None:
    spec = training.spec
    trained = TrainedModel(
        target=job.target,
        revision=job.revision,
        clm_only=job.clm_only,
        clm_weight=spec.clm_weight,
        tail=spec.tail.value,
        tokens=cursor.tokens,
        steps=cursor.step,
        lineage=job.lineage,
    )
    digest = export(training.model.model, state, trained, job.output / "model")
    content = {
        "config_digest": job.config_digest,
        "clm_only": job.clm_only,
        "packing": training.packing.value,
        "steps": cursor.step,
        "skipped_steps": cursor.skipped,
        "tokens": cursor.tokens,
        "elapsed_s": cursor.elapsed_s,
        "weights_digest": digest,
    }
    draft = job.output / "result.tmp"
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(job.output / "result.json")


def _finished(job: TrainJob) -> TrainResult | None:
    """The result that stands in the output folder, if there is one.

    Raises:
        Mismatch: it is that of another configuration.
    """
    path = job.output / "result.json"
    if not path.exists():
        return None
    content = read_json_object(path)
    if (content["config_digest"], content["clm_only"]) != (job.config_digest, job.clm_only):
        raise Mismatch(
            f"{path} is the result of configuration {content['config_digest'][:12]} (clm_only: {content['clm_only']}), "
            f"this job is {job.config_digest[:12]} (clm_only: {job.clm_only}); use another output folder"
        )
    names = ("steps", "skipped_steps", "tokens", "elapsed_s", "weights_digest")
    return TrainResult(job.output / "model", job.output / "metrics.jsonl", *(content[name] for name in names))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(slots=True)
class _Signals:
    """A stop signal becomes a request to stop after the step; a second one that is SIGINT stops at once."""

    received: int | None = None

    @property
    def is_set(self) -> bool:
        return self.received is not None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def raise_for(self, cursor: Cursor, steps: int) -> None:
        """Raises what the signal means."""
        raise self.error(
            f"training stopped after step {cursor.step} of {steps}; start the same job again to go on from there"
        )

    def error(self, message: str) -> Interrupted:
        """What the signal means, as an error."""
        return (Interrupted if self.received == signal.SIGINT else Terminated)(message)


@contextmanager
def _signals() -> Iterator[_Signals]:
    """What was asked to stop has stopped, whatever breaks meanwhile: processes of other nodes end, a lease moves.

    Only wrong input stays what it is, for another start ends in the same way.
    """
    signals = _Signals()
    with taken(signals.receive):
        try:
            yield signals
        except (InvalidInput, Interrupted):
            raise
        except Exception as error:
            if not signals.is_set:
                raise
            raise signals.error(
                f"training was asked to stop, and ended before its step did ({type(error).__name__}: {error}); start "
                "the same job again to go on from the newest checkpoint"
            ) from error
