"""The sections of a run's YAML that are settings alone: of capture, alignment, fusion, training, measures, registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from fusery.config.section import Section
from fusery.core.rules import Cost, Fallback, FusionRule, Positions, Tail, TieOrder, Vocabulary


class CaptureSpec(Section):
    """What is kept of each source's distributions."""

    top_k: int = Field(default=64, ge=1, le=4096)
    """Entries kept per position. Choose by the captured mass that the coverage table reports."""
    log_probs: Literal["float16", "float32"] = "float16"
    batch_bytes: int = Field(default=16_384, ge=1, le=60_000)
    """Text bytes in one request, about four times its tokens. A request is one batch of the model."""


class AlignmentSpec(Section):
    """How a source's positions and vocabulary are mapped to the target's."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "positions: mined": "positions: dtw",
        "vocabulary: mined": "vocabulary: min_ed",
    }
    REMOVED: ClassVar[Mapping[str, str]] = {
        "disagreement": "leave it out: all rows are kept, which made no difference",
        "fallback: next_token": "leave it out: such positions train on the text with weight 1, which is the same",
        "vocabulary: first_piece": "take partition, which keeps the same mass and moves none of it",
    }
    FIXED: ClassVar[Mapping[str, Any]] = {"disagreement": "keep"}

    positions: Positions = Positions.BOUNDARY
    """`reference` is the paper's implementation bit for bit, and sets the next two to `min_ed` and `current_token`."""
    vocabulary: Vocabulary = Vocabulary.PARTITION
    fallback: Fallback = Fallback.NONE
    ties: TieOrder = TieOrder.DIAGONAL_SOURCE_TARGET
    """With `reference`: which of equally cheap steps its warping path takes."""

    @model_validator(mode="before")
    @classmethod
    def _reference_is_whole(cls, values: Any) -> Any:
        """`reference` with the vocabulary map and the fallback that belong to it, where they are not given."""
        if isinstance(values, dict) and values.get("positions") == Positions.REFERENCE:
            return {"vocabulary": Vocabulary.MIN_ED, "fallback": Fallback.CURRENT_TOKEN} | values
        return values

    @model_validator(mode="after")
    def _reference_maps_tokens(self) -> AlignmentSpec:
        if self.positions is not Positions.REFERENCE:
            if self.ties is not TieOrder.DIAGONAL_SOURCE_TARGET:
                raise ValueError("ties: goes with positions: reference only; leave it out")
            return self
        if self.vocabulary not in (Vocabulary.MIN_ED, Vocabulary.EXACT):
            raise ValueError(
                f"positions: reference needs vocabulary: min_ed or exact (the paper's soft and hard), "
                f"got {self.vocabulary.value}"
            )
        if self.fallback is not Fallback.CURRENT_TOKEN:
            raise ValueError("positions: reference is the paper's implementation; leave fallback out")
        return self


class FusionSpec(Section):
    """How aligned distributions are fused."""

    RENAMED: ClassVar[Mapping[str, str]] = {"quality": "cost"}
    REMOVED: ClassVar[Mapping[str, str]] = {
        "scope": "leave it out: sources are compared over whole documents; spans showed no gain",
    }
    FIXED: ClassVar[Mapping[str, Any]] = {"scope": "document"}

    rule: FusionRule = FusionRule.MIN_CE
    """`avg_ce_exp` goes with alignment: {positions: reference} only."""
    cost: Cost = Cost.BITS_PER_BYTE
    """What a source's error on a document is measured in; low is good."""
    temperature: float = Field(default=1.0, gt=0)
    """τ of AvgCE's weights softmax(−c/τ)."""


class CoverageSpec(Section):
    """Floors under which a run warns before it trains, by source and domain. They decide nothing: in no digest."""

    positions_floor: float = Field(default=0.5, ge=0, le=1)
    """Least share of target positions for which a source has evidence."""
    mass_floor: float = Field(default=0.5, ge=0, le=1)
    """Least probability mass kept at them, on average."""


USUAL_SEQUENCE_LENGTH = 2048


class TrainingSpec(Section):
    """Continual training of the target: λ·CLM + (1−λ)·fusion. Defaults: the paper's values, but for λ and tail."""

    REMOVED: ClassVar[Mapping[str, str]] = {"tail: drop": "take tail, which learns from that mass, or renormalise"}

    clm_weight: float = Field(default=0.3, ge=0, le=1)
    """λ, the weight of the causal-LM loss at positions with evidence; without evidence it is 1. The paper's is 0.9.
    The default is what was best where sources lead by far (docs/ablation.md); where none does, more loses less."""
    tail: Tail = Tail.TAIL
    temperature: float = Field(default=1.0, gt=0)
    """Of the sources' distributions, P^(1/temperature) normalised; over 1 flattens them."""
    epochs: int = Field(default=1, ge=1)
    sequence_length: int | None = Field(default=None, ge=8)
    """Tokens of a packed sequence; None: 2048, or the target's context where it is shorter."""
    batch_sequences: int = Field(default=128, ge=1)
    """Packed sequences per optimizer step, over all processes."""
    micro_batch_sequences: int | None = Field(default=None, ge=1)
    """Sequences in one forward pass; None: the whole batch."""
    learning_rate: float = Field(default=1e-5, gt=0)
    clm_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate of the CLM baseline, so that it can be tuned as carefully; None: the same."""
    min_learning_rate_ratio: float = Field(default=0.0, ge=0, le=1)
    warmup_ratio: float = Field(default=0.008, ge=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass: less memory, about a third more time."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Train LoRA adapters of this rank and add them to the weights at the end; None: all weights. Needs peft."""
    lora_alpha: int = Field(default=16, ge=1)
    checkpoint_every_steps: int = Field(default=200, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest so many are kept, and the one with the best held-out loss, where that is measured."""
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    """Measure the loss on held-out text after so many steps, and at the end; None: never. A divisor of
    checkpoint_every_steps, so that every checkpoint is measured."""
    evaluate_documents: int = Field(default=256, ge=1)
    """At most so many held-out documents are measured then."""

    def sequence_tokens(self, context_length: int) -> int:
        """Tokens of a packed sequence for a target whose context holds `context_length`."""
        return min(self.sequence_length or USUAL_SEQUENCE_LENGTH, context_length)

    @model_validator(mode="after")
    def _checkpoints_are_measured(self) -> TrainingSpec:
        every = self.evaluate_every_steps
        if every is not None and self.checkpoint_every_steps % every:
            raise ValueError(
                f"evaluate_every_steps: expected a divisor of checkpoint_every_steps ({self.checkpoint_every_steps}), "
                f"got {every}"
            )
        return self


class EvaluationSpec(Section):
    """What the fused model is compared with."""

    REMOVED: ClassVar[Mapping[str, str]] = {"code_samples": "leave it out: one program is written for each item"}

    clm_baseline: bool = True
    """Also train the target with CLM alone on the same tokens and steps."""
    ensemble: bool = True
    """Also score the fused evidence itself, without training; the sources read the held-out text once more for it."""
    weight_merging: bool = True
    """Also score the mean of the target's and the sources' weights, where they have one architecture and tokenizer."""
    single_source: bool = False
    """Also fuse each source alone into the target: one more training for each, nothing is captured again."""
    tasks: tuple[str, ...] = ()
    """Suites (reasoning, commonsense, code, …) and tasks of lm-evaluation-harness; needs the extra eval."""
    task_data: str | None = Field(default=None, min_length=1)
    """A folder (relative to the YAML file) with data of tasks; what it lacks comes from the hub."""
    task_limit: int | None = Field(default=None, ge=1)
    """Only so many items of each task; None: all."""
    task_sources: bool = True
    """Give the tasks to the sources too, where their weights are at hand."""
    code_execution: bool = False
    """Let tasks run the programs that a model writes, shut in: no network, not root, limits of time and memory."""
    batch_bytes: int = Field(default=16_384, ge=1, le=60_000)


class Baseline(StrEnum):
    """A model of the run that the fused one is compared with; one source's are named with `of_source`."""

    TARGET_BEFORE = "target_before"
    CLM = "clm"
    SOURCES = "sources"
    """Every source."""
    SOURCE = "source"
    ENSEMBLE = "ensemble"
    WEIGHT_MERGING = "weight_merging"
    SINGLE_SOURCE = "single_source"

    @property
    def is_of_one_source(self) -> bool:
        return self in (Baseline.SOURCE, Baseline.SINGLE_SOURCE)

    def of_source(self, name: str) -> str:
        """The baseline's name where it belongs to one source: source:NAME, single_source:NAME."""
        return f"{self.value}:{name}"


def baseline_names(sources: Sequence[str]) -> list[str]:
    """Everything that a gate of a run with these sources can compare the fused model with."""
    plain = [baseline.value for baseline in Baseline if not baseline.is_of_one_source]
    return plain + [kind.of_source(name) for kind in Baseline if kind.is_of_one_source for name in sources]


class GateSpec(Section):
    """What the measures must show before a registered version gets its alias. They decide no byte: in no digest."""

    REMOVED: ClassVar[Mapping[str, str]] = {"least_gain": "leave it out: the whole interval must lie below 0"}

    better_than: tuple[str, ...] = (Baseline.TARGET_BEFORE.value, Baseline.CLM.value)
    """Models over which the mean of bits per byte must be lower, with a 95 % interval that excludes 0: target_before,
    clm, sources (every one), source:NAME, ensemble, weight_merging, single_source:NAME."""
    least_documents: int = Field(default=10, ge=1)
    """Held-out documents that each domain must have where `better_than` asks for an interval; of fewer it is too
    narrow, of one it has no width."""
    domain_tolerance: float | None = Field(default=0.01, ge=0)
    """By what share a domain may at most be worse than before the training; None: domains are not looked at."""

    @model_validator(mode="after")
    def _asks_something(self) -> GateSpec:
        if not self.better_than and self.domain_tolerance is None:
            raise ValueError("better_than, domain_tolerance: a gate must ask for something; leave one of them in")
        return self


class RegistrySpec(Section):
    """Where the fused model is registered in MLflow."""

    enabled: bool = True
    model_name: str | None = Field(default=None, pattern=r"^[^/:]+$")
    """Name of the registered model; None: the run's name."""
    alias: str = Field(default="candidate", pattern=r"^[a-z][a-z0-9_-]*$")
    """What points to the newest version that passed the gate; `champion` is given by `fusery promote`."""
    accept_licenses: tuple[str, ...] = ()
    """Licences that you accept, by id (llama2); where none is known, by source:NAME or `target`."""


class ServicesSpec(Section):
    """The place: left out of the run's digest; the environment (FUSERY_…) overrides it."""

    REMOVED: ClassVar[Mapping[str, str]] = {"max_in_flight": "leave it out: 512 shards of a hop are handed out at once"}

    store: str = "fusery-store"
    """Folder (relative to the YAML file) or fsspec URL of captures, shards and runs."""
    work: str | None = None
    """Folder of this machine for checkpoints, logs and MLflow's SQLite; None: the store's, where it is a folder."""
    broker_url: str | None = None
    """redis://… of a broker of your own; keep passwords out of here: use FUSERY_BROKER_URL."""
    tracking_uri: str | None = None
    workers: int = Field(default=2, ge=1, le=256)
    """Processes of the embedded worker."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of each embedded source server and trainer; None: half of the cores."""
    parallel_trainers: bool = True
    """Train the fused model and the CLM baseline at the same time."""
