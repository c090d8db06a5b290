"""The experiment: one YAML, checked whole before any work, frozen, hashed.

Everything that decides the bytes of an artefact stands here; addresses and folders (`services`) and what a cluster
gives (`kubernetes`) may stand here too but are left out of the digest, so that moving a run does not change it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fusery.config.kubernetes import KubernetesSpec
from fusery.config.section import Section
from fusery.config.sections import (
    AlignmentSpec,
    CaptureSpec,
    CoverageSpec,
    EvaluationSpec,
    FusionSpec,
    GateSpec,
    RegistrySpec,
    ServicesSpec,
    TrainingSpec,
    baseline_names,
)
from fusery.core.rules import Dtype, FusionRule, Positions

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")]


_KEPT_NAMES = ("target", "unknown")
"""In tags, and where licences are accepted, they mean the target and an unknown licence."""


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


class ModelSpec(Section):
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
    same_as: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """For tgi: and vllm: the weights' fingerprint of an earlier source that answers alike, as you know: its captures
    are used. A run that finds only captures of another fingerprint names it."""
    address: str | None = None
    """A running source server: host:port, a list host:port,host:port, or dns:///name:port; None: the run starts one."""
    dtype: Dtype = Dtype.FLOAT32

    @model_validator(mode="after")
    def _fits_its_engine(self) -> SourceSpec:
        if split_engine(self.model)[0] is not EngineKind.TRANSFORMERS:
            if self.revision is not None:
                raise ValueError("revision: the inference server decides its model's revision; leave it out")
        else:
            for key in ("tokenizer", "same_as"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: goes with tgi:URL and vllm:URL only, the model is {self.model!r}")
        if self.same_as is not None and self.address is not None:
            raise ValueError("same_as: the source server at `address` says what it is; give it --same-as instead")
        return self


class CorpusFile(Section):
    """A file of rows (JSON, CSV, Parquet) or text, a folder of these, or a split of a Hugging Face dataset."""

    path: str = Field(min_length=1)
    """.jsonl, .ndjson, .json, .csv, .tsv, text (each also .gz, .bz2, .xz, .zst), .parquet, a folder of these,
    hf:OWNER/NAME[@REVISION] or hf:./FOLDER."""
    format: Literal["json", "csv", "tsv", "parquet", "text"] | None = None
    """How every file here is read; None: by its ending, and as text where that says nothing."""
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
        elif self.format is not None:
            raise ValueError(f"format: goes with files, the path is {self.path!r}; `datasets` reads it")
        elif self.split is None:
            raise ValueError(f"split: missing; say which split of {self.path} to read, such as split: train")
        if self.domain is not None and self.domain_column_is_chosen:
            raise ValueError("domain, domain_column: give one of them; domain holds for every document here")
        return self


class CorpusSpec(Section):
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


class RunConfig(Section):
    """A whole run. `fusery schema` prints this as JSON Schema."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**63)
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
    kubernetes: KubernetesSpec = KubernetesSpec()

    @model_validator(mode="after")
    def _target_is_trained_here(self) -> RunConfig:
        if split_engine(self.target.model)[0] is not EngineKind.TRANSFORMERS:
            raise ValueError(f"target: {self.target.model} is a server; a target is trained: name a folder or a Hub id")
        return self

    @model_validator(mode="after")
    def _paper_s_weights_go_with_its_alignment(self) -> RunConfig:
        if self.fusion.rule is FusionRule.AVG_CE_EXP and self.alignment.positions is not Positions.REFERENCE:
            raise ValueError("fusion.rule: avg_ce_exp goes with alignment: {positions: reference} only; take avg_ce")
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> RunConfig:
        names = [source.name for source in self.sources]
        kept = [name for name in names if name in _KEPT_NAMES]
        if kept:
            raise ValueError(f"sources: the name {kept[0]!r} is kept for what is no source; choose another")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: the name {twice[0]!r} stands twice; give every source its own name")
        return self

    @model_validator(mode="after")
    def _gate_knows_its_baselines(self) -> RunConfig:
        known = baseline_names([source.name for source in self.sources])
        for name in self.gate.better_than:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"expected {', '.join(known)}"
                raise ValueError(f"gate.better_than: no baseline {name!r} in this run; {hint}")
        return self

    def digest(self) -> str:
        """SHA-256 (hex) of what decides the trained model, and not of places, warnings, measuring and registering."""
        apart: Any = {name: True for name in ("services", "kubernetes", "registry", "gate", "evaluation", "coverage")}
        # A server's tokenizer and what it is the same as decide bytes, but stand in every shard's name by themselves.
        places = {"address", "tokenizer", "same_as"}
        content = self.model_dump(mode="json", exclude={**apart, "sources": {"__all__": places}})
        content |= {"alignment": self.alignment.stored(), "fusion": self.fusion.stored()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def registered_name(self) -> str:
        return self.registry.model_name or self.name
