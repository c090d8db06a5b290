"""The report: the fused model against the target before training, plain continual training, and every source.

Written once a run as evaluation.json; docs/evaluation-json.md documents every key. The summary stands first
and the entries per document last, on lines of their own, so that people can read the file too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fusery.core.rules import FusionRule
from fusery.evaluation.gain import Gain, domain_gains, paired_gain
from fusery.evaluation.scores import Scores
from fusery.evaluation.tasks.scores import TaskScores, task_summary
from fusery.runtime.errors import Corrupt, Mismatch
from fusery.runtime.text.json import parse_json

FORMAT = 1
_LEAST_DIFFERENCE = 0.001

Shares = Mapping[str, Mapping[str, float]]
Coverage = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the gate asks, and the figures that decide it."""

    name: str
    passed: bool
    reason: str

    @property
    def line(self) -> str:
        return f"{'held' if self.passed else 'not held'}: {self.name} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks, and the rule that they come from. Passed if every check holds; without a check there is no proof."""

    checks: tuple[Check, ...]
    rule: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def word(self) -> str:
        """'passed' or 'failed', as in tags and files."""
        return "passed" if self.passed else "failed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """A line for each check, those that do not hold first."""
        return tuple(check.line for check in sorted(self.checks, key=lambda check: check.passed))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the keys are documented in docs/evaluation-json.md."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks], "rule": dict(self.rule)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        return cls(tuple(Check(**check) for check in content["checks"]), dict(content["rule"]))


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of all models on the same held-out documents, and how the training data came about.

    `baselines`: further models by their name in tables: ensemble, weight merging, single source NAME. `remarks`: why
    one of them is not there, or not whole. `tasks`: by the names of `models`, then by task; a model that was given no
    task is not there.
    `coverage`: of each source and domain the share of target positions with evidence ("positions"), the mean
    probability mass kept there ("kept_mass"), and what became of the rest; None where there is nothing to measure.
    `wins`: of each domain, each source's share of the evidence's weight: under MinCE, of the positions. `warnings`:
    lines, where coverage is under the run's floors. `training`: settings, as logged. `verdict`: what the gate says of
    all this; None before it has judged.

    Raises:
        Mismatch: the models were measured on different documents.
    """

    run_id: str
    target_before: Scores
    fused: Scores
    sources: Mapping[str, Scores]
    clm: Scores | None = None
    baselines: Mapping[str, Scores] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, TaskScores]] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=dict)
    wins: Shares = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        for name, scores in self.models.items():
            if (scores.doc_ids, scores.doc_domains) != (self.fused.doc_ids, self.fused.doc_domains):
                raise Mismatch(
                    f"report: {name} was measured on {len(scores.doc_ids)} documents that are not the "
                    f"{len(self.fused.doc_ids)} of fused; measure all models on the same held-out documents"
                )

    @property
    def models(self) -> dict[str, Scores]:
        """Scores by the name in tables and metrics, in the order of their rows; a source is "source NAME"."""
        clm = {} if self.clm is None else {"CLM": self.clm}
        sources = {f"source {name}": scores for name, scores in self.sources.items()}
        return {"target before": self.target_before, **sources, **self.baselines, **clm, "fused": self.fused}

    def is_comparable(self, name: str) -> bool:
        """Whether fused and the model `name` are measured on the same bytes, but for a thousandth."""
        difference = self.models[name].unspelled_share - self.fused.unspelled_share
        return abs(difference) <= _LEAST_DIFFERENCE

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.fused.domains)

    @property
    def averages(self) -> bool:
        """Whether fusion gave every source a weight, in place of choosing one."""
        return bool(self.training.get("fusion.rule", FusionRule.MIN_CE.value) != FusionRule.MIN_CE.value)

    def gains(self) -> dict[str, Gain]:
        """Gain of fused over every other model, by the names of `models`; the same seed gives the same bounds."""
        others = {name: scores for name, scores in self.models.items() if name != "fused"}
        return {name: paired_gain(scores, self.fused, self.seed, self.resamples) for name, scores in others.items()}

    def domain_gains(self) -> dict[str, dict[str, Gain]]:
        """As `gains`, of each domain by itself: by the names of `models`, then by domain."""
        others = {name: scores for name, scores in self.models.items() if name != "fused"}
        return {name: domain_gains(scores, self.fused, self.seed, self.resamples) for name, scores in others.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the keys are documented in docs/evaluation-json.md."""
        gains = {name: gain.to_json() for name, gain in self.gains().items()}
        by_domain = {name: {d: g.to_json() for d, g in found.items()} for name, found in self.domain_gains().items()}
        tasks = {name: [scores.to_json() for scores in found.values()] for name, found in self.tasks.items()}
        return {
            "format": FORMAT,
            "run_id": self.run_id,
            "models": _by_role(self, {name: scores.summary() for name, scores in self.models.items()}),
            "gains": _by_role(self, gains),
            "domain_gains": _by_role(self, by_domain),
            "remarks": dict(self.remarks),
            "tasks": {name: task_summary(self.tasks, name, self.seed) for name in self.tasks},
            "coverage": {source: {d: dict(v) for d, v in domains.items()} for source, domains in self.coverage.items()},
            "wins": {domain: dict(shares) for domain, shares in self.wins.items()},
            "warnings": list(self.warnings),
            **({} if self.verdict is None else {"verdict": self.verdict.to_json()}),
            "training": dict(self.training),
            "bootstrap": {"seed": self.seed, "resamples": self.resamples},
            "task_items": tasks,
            "documents": _by_role(self, {name: scores.columns() for name, scores in self.models.items()}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """The report whose `to_json` is `content`; scores and gains are computed again from the documents.

        Raises:
            Mismatch: written by another version of the format.
        """
        if content.get("format") != FORMAT:
            raise Mismatch(
                f"evaluation.json: format {content.get('format')!r}, this version reads {FORMAT}; "
                "evaluate again, or read it with the version that wrote it"
            )
        documents = content["documents"]
        return cls(
            run_id=content["run_id"],
            target_before=Scores.of_columns(documents["target_before"]),
            fused=Scores.of_columns(documents["fused"]),
            sources={name: Scores.of_columns(columns) for name, columns in documents["sources"].items()},
            clm=Scores.of_columns(documents["clm"]) if "clm" in documents else None,
            baselines={name: Scores.of_columns(columns) for name, columns in documents["baselines"].items()},
            remarks=content["remarks"],
            tasks={
                name: {row["task"]: TaskScores.from_json(row) for row in rows}
                for name, rows in content["task_items"].items()
            },
            coverage=content["coverage"],
            wins=content["wins"],
            warnings=tuple(content.get("warnings", ())),
            verdict=Verdict.from_json(content["verdict"]) if "verdict" in content else None,
            training=content["training"],
            **content["bootstrap"],
        )


def write(report: Report, path: Path) -> None:
    """evaluation.json at `path`, whole or not at all."""
    content = report.to_json()
    lines = {
        key: json.dumps(content.pop(key), ensure_ascii=False, allow_nan=False) for key in ("task_items", "documents")
    }
    summary = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    columns = "".join(f',\n  "{key}": {line}' for key, line in lines.items())
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(summary.removesuffix("\n}") + columns + "\n}\n", encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Report:
    """The report at `path`.

    Raises:
        Corrupt: the file is no whole report.
        Mismatch: written by another version of the format.
    """
    try:
        return Report.from_json(parse_json(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{path}: not a whole evaluation.json ({error!r}); delete it and evaluate again") from error


def _by_role(report: Report, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` (by the names of `models`) by role: target_before, sources by name, clm, fused; absent ones left out."""
    named = {"target_before": "target before", "clm": "CLM", "fused": "fused"}
    roles = {role: values[name] for role, name in named.items() if name in values}
    baselines = {name: values[name] for name in report.baselines}
    return {**roles, "sources": {name: values[f"source {name}"] for name in report.sources}, "baselines": baselines}
