"""The experiment: one YAML, checked whole before any work, frozen, hashed.

Everything that decides the bytes of an artefact stands here; addresses and folders (`services`) may
stand here too but are left out of the digest, so that moving a run does not change it.
"""

from __future__ import annotations

import hashlib
import json
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from fusery.core.rules import (
    Disagreement,
    Dtype,
    Fallback,
    FusionRule,
    Positions,
    Quality,
    Scope,
    Tail,
    TieOrder,
    Vocabulary,
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")]


class EngineKind(StrEnum):
    """What computes a source's distributions: this machine, or an inference server that is asked over HTTP."""

    TRANSFORMERS = "transformers"
    TGI = "tgi"
    VLLM = "vllm"


def split_engine(model: str) -> tuple[EngineKind, str]:
    """The engine that a model's name names, and its model or URL: `tgi:http://host:8080`; without one, transformers."""
    kind, colon, place = model.partition(":")
    if colon and kind in list(EngineKind):
        return EngineKind(kind), place
    return EngineKind.TRANSFORMERS, model


class ModelSpec(_Section):
    """A causal LM with a fast tokenizer and safetensors weights."""

    model: str = Field(min_length=1)
    """A folder (relative to the YAML file) or a Hugging Face Hub id."""
    revision: str | None = None
    """The Hub commit to use; pin it for runs that others repeat."""


class SourceSpec(ModelSpec):
    """One LLM whose knowledge is fused."""

    name: Name
    """A short name for tables, metrics and folders: lower case, digits, '-'."""
    model: str = Field(min_length=1)
    """A folder, a Hub id, or an inference server: tgi:http://host:port, vllm:http://host:port (docs/engines.md)."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """For tgi: and vllm: a folder or Hub id with the model's tokenizer.json; None: the model that the server names."""
    address: str | None = None
    """A running source server: host:port, a list host:port,host:port, or dns:///name:port; None: the run starts one."""
    dtype: Dtype = Dtype.FLOAT32

    @model_validator(mode="after")
    def _fits_its_engine(self) -> SourceSpec:
        if split_engine(self.model)[0] is not EngineKind.TRANSFORMERS:
            if self.revision is not None:
                raise ValueError(f"revision: the server at {self.model} decides its model's revision; leave it out")
        elif self.tokenizer is not None:
            raise ValueError(f"tokenizer: goes with tgi:URL and vllm:URL only, the model is {self.model!r}")
        return self


class CorpusFile(_Section):
    """A JSONL, text or Parquet file, a folder of these, or a split of a Hugging Face dataset."""

    path: str = Field(min_length=1)
    """.jsonl and text (each also .gz, .zst), .parquet, a folder of these, hf:OWNER/NAME[@REVISION] or hf:./FOLDER."""
    domain: str | None = None
    """The domain of every document here; without it, the domain column, else 'all'."""
    text_column: str = "text"
    domain_column: str = Field(default="domain", min_length=1)
    """Where a row names its domain. Rows may lack the default one; any other must be there."""
    split: str | None = Field(default=None, min_length=1)
    """The split of a dataset (hf:…), such as train or train[:1000]."""
    config: str | None = Field(default=None, min_length=1)
    """The configuration of a dataset (hf:…) that has several."""

    @property
    def dataset(self) -> tuple[str, str | None] | None:
        """Name and revision of a Hugging Face dataset, or its folder; None: an ordinary path."""
        if not self.path.startswith("hf:"):
            return None
        place = self.path.removeprefix("hf:")
        if place.startswith((".", "/", "~")):
            return place, None
        name, _, revision = place.partition("@")
        return name, revision or None

    @property
    def domain_column_is_chosen(self) -> bool:
        return self.domain_column != "domain"

    @model_validator(mode="after")
    def _keys_fit_the_path(self) -> CorpusFile:
        if self.dataset is None:
            if self.split is not None or self.config is not None:
                raise ValueError(f"split, config: go with hf:OWNER/NAME only, the path is {self.path!r}")
        elif not re.fullmatch(r"hf:([./~].*|[\w.-]+/[\w.-]+(@[\w./-]+)?)", self.path):
            raise ValueError(f"path: expected hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:./FOLDER, got {self.path!r}")
        elif self.split is None:
            raise ValueError(f"split: missing; say which split of {self.path} to read, such as split: train")
        if self.domain is not None and self.domain_column_is_chosen:
            raise ValueError("domain, domain_column: give one of them; domain holds for every document here")
        return self


class CorpusSpec(_Section):
    """The documents to fuse on, and the held-out documents to measure on."""

    train: tuple[CorpusFile, ...] = Field(min_length=1)
    held_out: tuple[CorpusFile, ...] = ()
    """Documents to measure on, which are never trained on."""
    held_out_share: float | None = Field(default=None, gt=0, lt=1)
    """Instead of `held_out`: hold out this share of the documents of `train`, chosen by their text and the seed."""
    max_document_bytes: int = Field(default=4096, ge=16, le=1_000_000)
    """Longer documents are split, at white space where there is any; every source's context must hold one."""
    max_train_documents: int | None = Field(default=None, ge=1)
    """Train on only so many documents (after splitting), chosen by seed; None: all."""
    max_held_out_documents: int | None = Field(default=None, ge=1)
    """Measure on only so many documents, chosen by seed; None: all."""
    shard_bytes: int = Field(default=262_144, ge=1)
    """Text in one shard, one document at least. A shard is one task of every hop: seconds of a GPU, and what a worker
    holds in memory. Some megabytes for corpora over 10 GB, so that there are not too many."""

    @model_validator(mode="after")
    def _something_is_held_out(self) -> CorpusSpec:
        if bool(self.held_out) == (self.held_out_share is not None):
            got = "both" if self.held_out else "neither"
            raise ValueError(
                f"held_out, held_out_share: give one of them, got {got}; a run is measured on held-out text"
            )
        return self


class CaptureSpec(_Section):
    """What is kept of each source's distributions."""

    top_k: int = Field(default=64, ge=1, le=4096)
    """Entries kept per position. Choose by the captured mass that the coverage table reports."""
    log_probs: Literal["float16", "float32"] = "float16"
    batch_bytes: int = Field(default=16_384, ge=1, le=60_000)
    """Text bytes in one request, about four times its tokens. A request is one batch of the model."""


class AlignmentSpec(_Section):
    """How a source's positions and vocabulary are mapped to the target's."""

    positions: Positions = Positions.BOUNDARY
    """`reference` is the paper's implementation bit for bit, and sets the next two to `mined` and `current_token`."""
    vocabulary: Vocabulary = Vocabulary.PARTITION
    disagreement: Disagreement = Disagreement.KEEP
    """Rows after which both sides go on with tokens of different cells, because a tokenizer looked further ahead."""
    fallback: Fallback = Fallback.NONE
    ties: TieOrder = TieOrder.DIAGONAL_SOURCE_TARGET
    """Which of equally cheap steps the warping path of `mined` and `reference` takes."""

    @model_validator(mode="before")
    @classmethod
    def _reference_is_whole(cls, values: Any) -> Any:
        """`reference` with the vocabulary map and the fallback that belong to it, where they are not given."""
        if isinstance(values, dict) and values.get("positions") == Positions.REFERENCE:
            return {"vocabulary": Vocabulary.MINED, "fallback": Fallback.CURRENT_TOKEN} | values
        return values

    @model_validator(mode="after")
    def _reference_maps_tokens(self) -> AlignmentSpec:
        if self.positions is Positions.REFERENCE and self.vocabulary not in (Vocabulary.MINED, Vocabulary.EXACT):
            raise ValueError(
                f"positions: reference needs vocabulary: mined or exact (the paper's soft and hard), "
                f"got {self.vocabulary.value}"
            )
        is_whole = self.fallback is Fallback.CURRENT_TOKEN and self.disagreement is Disagreement.KEEP
        if self.positions is Positions.REFERENCE and not is_whole:
            raise ValueError("positions: reference is the paper's implementation; leave fallback and disagreement out")
        return self


class FusionSpec(_Section):
    """How aligned distributions are fused."""

    rule: FusionRule = FusionRule.MIN_CE
    quality: Quality = Quality.BITS_PER_BYTE
    scope: Scope = Scope.DOCUMENT
    """Compare the sources over whole documents, or over each span between byte boundaries that all of them share."""
    temperature: float = Field(default=1.0, gt=0)
    """τ of AvgCE's weights softmax(−c/τ)."""


class CoverageSpec(_Section):
    """Floors under which a run warns before it trains, by source and domain. They decide nothing: in no digest."""

    positions_floor: float = Field(default=0.5, ge=0, le=1)
    """Least share of target positions for which a source has evidence."""
    mass_floor: float = Field(default=0.5, ge=0, le=1)
    """Least probability mass kept at them, on average."""


class TrainingSpec(_Section):
    """Continual training of the target: λ·CLM + (1−λ)·fusion. Defaults: the paper's values."""

    clm_weight: float = Field(default=0.9, ge=0, le=1)
    """λ, the weight of the causal-LM loss at positions with evidence; without evidence it is 1."""
    tail: Tail = Tail.TAIL
    temperature: float = Field(default=1.0, gt=0)
    """Of the sources' distributions, P^(1/temperature) normalised; over 1 flattens them."""
    epochs: int = Field(default=1, ge=1)
    sequence_length: int = Field(default=2048, ge=8)
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

    @model_validator(mode="after")
    def _checkpoints_are_measured(self) -> TrainingSpec:
        every = self.evaluate_every_steps
        if every is not None and self.checkpoint_every_steps % every:
            raise ValueError(
                f"evaluate_every_steps: expected a divisor of checkpoint_every_steps ({self.checkpoint_every_steps}), "
                f"got {every}"
            )
        return self


class EvaluationSpec(_Section):
    """What the fused model is compared with."""

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
    code_samples: int = Field(default=1, ge=1, le=200)
    """Programs drawn for each item: 1 is the most likely one; more are drawn at temperature 0.2, as in the paper."""
    batch_bytes: int = Field(default=16_384, ge=1, le=60_000)


class Baseline(StrEnum):
    """A model of the run that the fused one is compared with."""

    TARGET_BEFORE = "target_before"
    CLM = "clm"
    SOURCES = "sources"
    """Every source."""


class GateSpec(_Section):
    """What the measures must show before a registered version gets its alias. They decide no byte: in no digest."""

    better_than: tuple[Baseline, ...] = (Baseline.TARGET_BEFORE, Baseline.CLM)
    """Models over which the mean of bits per byte must be lower, with a 95 % interval that excludes 0."""
    least_gain: float = Field(default=0.0, ge=0, lt=1)
    """By how much: 0.01 asks that the whole interval is below −1 %."""
    domain_tolerance: float | None = Field(default=0.01, ge=0)
    """By what share a domain may at most be worse than before the training; None: domains are not looked at."""

    @model_validator(mode="after")
    def _asks_something(self) -> GateSpec:
        if not self.better_than and self.domain_tolerance is None:
            raise ValueError("better_than, domain_tolerance: a gate must ask for something; leave one of them in")
        return self


class RegistrySpec(_Section):
    """Where the fused model is registered in MLflow."""

    enabled: bool = True
    model_name: str | None = Field(default=None, pattern=r"^[^/:]+$")
    """Name of the registered model; None: the run's name."""
    alias: str = Field(default="candidate", pattern=r"^[a-z][a-z0-9_-]*$")
    """What points to the newest version that passed the gate; `champion` is given by `fusery promote`."""
    accept_licenses: tuple[str, ...] = ()
    """Licences with conditions that you accept, by id (gemma), or the name of a source or `target` for its licence."""


class ServicesSpec(_Section):
    """The place: left out of the run's digest; the environment (FUSERY_…) overrides it."""

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
    max_in_flight: int = Field(default=128, ge=1, le=100_000)
    """Shards of one hop that are handed to the broker and not done. 128 keep four dozen worker processes busy whose
    tasks take half a second; more for more processes."""
    parallel_trainers: bool = True
    """Train the fused model and the CLM baseline at the same time."""


class RunConfig(_Section):
    """A whole run. `fusery schema` prints this as JSON Schema."""

    name: Name
    seed: int = Field(default=0, ge=0)
    target: ModelSpec
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    corpus: CorpusSpec
    capture: CaptureSpec = CaptureSpec()
    alignment: AlignmentSpec = AlignmentSpec()
    fusion: FusionSpec = FusionSpec()
    coverage: CoverageSpec = CoverageSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    gate: GateSpec = GateSpec()
    registry: RegistrySpec = RegistrySpec()
    services: ServicesSpec = ServicesSpec()

    @model_validator(mode="after")
    def _target_is_trained_here(self) -> RunConfig:
        if split_engine(self.target.model)[0] is not EngineKind.TRANSFORMERS:
            raise ValueError(f"target: {self.target.model} is a server; a target is trained: name a folder or a Hub id")
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> RunConfig:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: the name {twice[0]!r} stands twice; give every source its own name")
        return self

    def digest(self) -> str:
        """SHA-256 (hex) of what decides the trained model, and not of places, warnings, measuring and registering."""
        apart: Any = {name: True for name in ("services", "registry", "gate", "evaluation", "coverage")}
        # A server's tokenizer decides bytes, but stands in the run's identity and in every shard's name by itself.
        places = {"address", "tokenizer"}
        content = self.model_dump(mode="json", exclude={**apart, "sources": {"__all__": places}})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def registered_name(self) -> str:
        return self.registry.model_name or self.name
