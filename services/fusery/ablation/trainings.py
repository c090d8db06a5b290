"""The trainings of an ablation, each named by what decides its result, so that cases share those that are equal.

CLM sees no evidence: one baseline serves all cases that differ in evidence, λ or tail. What stays of a training are its
scores (in the store), its metrics and, where it is asked for, the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.pipeline import steps
from fusery.pipeline.preflight import Run
from fusery.run_config import RunConfig
from fusery.run_sections import TrainingSpec
from fusery.worker.names import digest
from fusery.worker.plan import Hop, Plan

_VERSION = 1
"""Raised when the same settings would train another model."""
_NOT_OF_CLM = ("clm_weight", "tail", "temperature")


@dataclass(frozen=True, slots=True)
class Training:
    """One training. `plan` names the fused text that is read; of CLM only its tokens count."""

    title: str
    plan: Plan
    spec: TrainingSpec
    seed: int
    clm_only: bool
    key: str

    def folder(self, run: Run) -> Path:
        return run.work / "ablations" / "trainings" / self.key[:16]

    def scores(self, run: Run) -> str:
        """The artefact with the scores of its model on the held-out text."""
        return steps.scores_name(run, f"training-{self.key[:16]}", self.key)

    def is_measured(self, run: Run) -> bool:
        return run.store.find(self.scores(run)) is not None

    def is_done(self, run: Run, keep_models: bool) -> bool:
        """Whether what stays of it is there: the scores and, where it is to be kept, the model."""
        return self.is_measured(run) and (not keep_models or (self.folder(run) / "model").is_dir())

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "plan": self.plan.model_dump(mode="json"),
            "training": self.spec.model_dump(mode="json"),
            "seed": self.seed,
            "clm_only": self.clm_only,
            "key": self.key,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Training:
        return cls(
            content["title"],
            Plan.model_validate(content["plan"]),
            TrainingSpec.model_validate(content["training"]),
            content["seed"],
            content["clm_only"],
            content["key"],
        )


def training(base: Run, name: str, config: RunConfig, plan: Plan, seed: int, clm_only: bool) -> Training:
    """The fused training of a case with one seed, or its CLM baseline."""
    spec = (_clm if clm_only else _fused)(config.training)
    reads = plan.corpus_digest if clm_only else plan.folder(Hop.FUSE)
    parts = [base.run_id, plan.target_tokenizer_fingerprint, reads, spec.model_dump(mode="json"), seed, clm_only]
    title = f"{'CLM' if clm_only else name}, seed {seed}"
    return Training(title, plan, spec, seed, clm_only, digest([*parts, _VERSION]))


def _fused(spec: TrainingSpec) -> TrainingSpec:
    return spec.model_copy(update={"clm_learning_rate": None, "evaluate_every_steps": None})


def _clm(spec: TrainingSpec) -> TrainingSpec:
    """Without what a baseline does not see, so that it is the same for every case."""
    usual: dict[str, Any] = {name: TrainingSpec.model_fields[name].default for name in _NOT_OF_CLM}
    rate = spec.learning_rate if spec.clm_learning_rate is None else spec.clm_learning_rate
    return _fused(spec).model_copy(update=usual | {"learning_rate": rate})
