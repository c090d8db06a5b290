"""Scores of tasks, item by item, so that two models can be compared on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fusery.evaluation.gain import FloatArray, Interval
from fusery.evaluation.tasks.suites import SUITES
from fusery.runtime.errors import Mismatch

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class TaskScores:
    """What one model got in one task: for each item 0 to 1, higher is better. `items`: digests of the questions.

    `metric`: how an item is scored, in the library's words; `few_shot`: examples before each question. `cut`: of how
    many items the prompt was longer than the model reads, so that its beginning, examples first, was cut off.
    """

    task: str
    metric: str
    few_shot: int
    items: tuple[str, ...]
    scores: tuple[float, ...]
    cut: int = 0

    def __post_init__(self) -> None:
        if len(self.items) != len(self.scores) or not self.items:
            raise Mismatch(f"task {self.task}: {len(self.scores)} scores of {len(self.items)} items; measure again")

    @property
    def mean(self) -> float:
        return math.fsum(self.scores) / len(self.scores)

    def interval(self, seed: int, resamples: int = RESAMPLES) -> Interval:
        """The mean with its 95 % interval, by bootstrap over items."""
        draws_R = _means(np.asarray(self.scores)[:, None], seed, resamples)[:, 0]
        return Interval(self.mean, *map(float, np.percentile(draws_R, [2.5, 97.5])))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TaskScores:
        # Reports of before cuts were counted have no `cut`.
        return cls(**{**content, "items": tuple(content["items"]), "scores": tuple(content["scores"])})


def difference(baseline: Sequence[TaskScores], model: Sequence[TaskScores], seed: int) -> Interval:
    """Model minus baseline, the mean over tasks, with a 95 % interval: a paired bootstrap over items within tasks.

    Raises:
        Mismatch: they are not the same items, scored alike.
    """
    if len(baseline) != len(model) or not model:
        raise Mismatch(f"{len(baseline)} and {len(model)} tasks: measure both models in the same ones")
    value, draws_R = 0.0, np.zeros(RESAMPLES)
    for place, (before, after) in enumerate(zip(baseline, model, strict=True)):
        if (before.task, before.metric, before.items) != (after.task, after.metric, after.items):
            raise Mismatch(f"tasks {before.task}, {after.task}: not the same items; measure both models again")
        differences_I1 = (np.asarray(after.scores) - np.asarray(before.scores))[:, None]
        value += float(differences_I1.mean()) / len(model)
        draws_R += _means(differences_I1, seed + place, RESAMPLES)[:, 0] / len(model)
    return Interval(value, *map(float, np.percentile(draws_R, [2.5, 97.5])))


def task_summary(tasks: Mapping[str, Mapping[str, TaskScores]], model: str, seed: int) -> dict[str, Any]:
    """One model's scores as JSON: of each task, of each suite that it was given whole, and against the fused model.

    A suite's value is the mean over its tasks. `fused_minus`: in the tasks that both were given.
    """
    found = tasks[model]
    values = {
        task: {**scores.interval(seed).to_json(), "items": len(scores.items)}
        | {"metric": scores.metric, "few_shot": scores.few_shot, "cut": scores.cut}
        for task, scores in found.items()
    }
    suites = {
        suite: sum(found[task].mean for task in members) / len(members)
        for suite, members in SUITES.items()
        if all(task in found for task in members)
    }
    common = [task for task in found if task in tasks.get("fused", {})]
    summary: dict[str, Any] = {"tasks": values, "suites": suites}
    if model != "fused" and common:
        against = difference([found[task] for task in common], [tasks["fused"][task] for task in common], seed)
        summary["fused_minus"] = {**against.to_json(), "tasks": len(common)}
    return summary


def _means(values_IM: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Means over items drawn with replacement, [resamples, M]."""
    rng, items = np.random.default_rng(seed), len(values_IM)
    return np.stack([values_IM[rng.integers(0, items, items)].mean(axis=0) for _ in range(resamples)])
