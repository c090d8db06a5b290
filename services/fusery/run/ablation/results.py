"""What came of an ablation: rows of figures, sorted by gain; as JSON, CSV and for MLflow.

A case's bits of a document are the mean over its seeds, so that intervals speak of the choice of documents, and the
spread beside them of the seeds.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusery.evaluation.gain import Gain, paired_gain
from fusery.evaluation.scores import Scores
from fusery.runtime.text.domain_names import MEAN, mean_label, metric_parts

FORMAT = 1
CLM = "CLM"


@dataclass(frozen=True, slots=True)
class Figures:
    """A model's bits per byte by domain and their mean, over seeds; `spread`: their standard deviation, if several."""

    scores: Scores
    of_seeds: tuple[Scores, ...]

    @classmethod
    def of(cls, of_seeds: Sequence[Scores]) -> Figures:
        first = of_seeds[0]
        bits_SN = np.asarray([scores.bits for scores in of_seeds], np.float64)
        mean = Scores(
            first.doc_ids,
            first.doc_domains,
            tuple(bits_SN.mean(axis=0).tolist()),
            first.predicted_bytes,
            first.unspelled_bytes,
        )
        return cls(mean, tuple(of_seeds))

    def bits_per_byte(self) -> dict[str, float]:
        return _bits_per_byte(self.scores)

    def spread(self) -> dict[str, float | None]:
        values = [_bits_per_byte(scores) for scores in self.of_seeds]
        return {group: _spread([value[group] for value in values]) for group in self.bits_per_byte()}

    def to_json(self) -> dict[str, Any]:
        per_seed = [scores.mean_bits_per_byte for scores in self.of_seeds]
        return {"bits_per_byte": self.bits_per_byte(), "spread": self.spread(), "of_seeds": per_seed}


def _bits_per_byte(scores: Scores) -> dict[str, float]:
    domains = {domain: score.bits_per_byte for domain, score in scores.domains.items()}
    return {**domains, mean_label(domains): scores.mean_bits_per_byte}


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the fused text of a case holds: share of positions with evidence, mass kept there, both by source too."""

    positions: float | None
    kept_mass: float | None
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A case: its settings, and either its figures with those of its CLM baseline, or why there are none."""

    name: str
    labels: Mapping[str, str]
    settings: Mapping[str, Any]
    digest: str
    fused: Figures | None = None
    clm: Figures | None = None
    clm_name: str = CLM
    evidence: Evidence = Evidence(None, None)
    failure: str | None = None

    def gains_of_seeds(self) -> list[float]:
        """Of each seed, the change of mean bits per byte from CLM to fused, as a share."""
        if self.fused is None or self.clm is None:
            return []
        pairs = zip(self.fused.of_seeds, self.clm.of_seeds, strict=True)
        return [fused.mean_bits_per_byte / clm.mean_bits_per_byte - 1 for fused, clm in pairs]


@dataclass(frozen=True, slots=True)
class Table:
    """An ablation's result. `beside`: the other models by name, CLM among them; `lost`: why
    one of these is missing; `seconds`: of all trainings."""

    name: str
    ablation_id: str
    run_id: str
    axes: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    beside: Mapping[str, Figures]
    remarks: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    bootstrap_seed: int = 0
    _gains: dict[tuple[str, str], Gain] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def domains(self) -> tuple[str, ...]:
        found = [*self.beside.values(), *(row.fused for row in self.rows if row.fused is not None)]
        return tuple(found[0].scores.domains) if found else ()

    def gain(self, row: Row, other: str) -> Gain | None:
        """Change from a model beside the cases to a case, with its interval over documents."""
        if row.fused is None or other not in self.beside:
            return None
        if (row.name, other) not in self._gains:
            found = paired_gain(self.beside[other].scores, row.fused.scores, self.bootstrap_seed)
            self._gains[row.name, other] = found
        return self._gains[row.name, other]

    def failures(self) -> dict[str, str]:
        """What should be there and is not, with the reason."""
        cases = {row.name: row.failure for row in self.sorted_rows() if row.failure is not None}
        return {**cases, **self.lost}

    def sorted_rows(self) -> list[Row]:
        """Best gain over CLM first; those without figures last."""

        def place(row: Row) -> float:
            gain = self.gain(row, row.clm_name)
            return math.inf if gain is None else gain.relative.value

        return sorted(self.rows, key=place)

    def others_of(self, row: Row) -> list[str]:
        """The models that a case is compared with: not CLM of other settings."""
        others = {other.clm_name for other in self.rows} - {row.clm_name}
        return [name for name in self.beside if name not in others]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; docs/ablation.md documents the keys."""
        return {
            "format": FORMAT,
            "name": self.name,
            "ablation": self.ablation_id,
            "run_id": self.run_id,
            "axes": list(self.axes),
            "seeds": list(self.seeds),
            "domains": list(self.domains),
            "cases": [self._row_json(row) for row in self.sorted_rows()],
            "beside": {name: figures.to_json() for name, figures in self.beside.items()},
            "remarks": dict(self.remarks),
            "lost": dict(self.lost),
            "training_seconds": round(self.seconds, 1),
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        named = {"name": row.name, "settings": dict(row.settings), "labels": dict(row.labels)}
        if row.fused is None:
            return {**named, "failure": row.failure}
        gains = {name: self.gain(row, name) for name in self.others_of(row)}
        of_seeds = row.gains_of_seeds()
        return {
            **named,
            **row.fused.to_json(),
            "clm": row.clm_name,
            "gains": {name: gain.to_json() for name, gain in gains.items() if gain is not None},
            "gain_of_seeds": of_seeds,
            "gain_spread": _spread(of_seeds),
            "positions": row.evidence.positions,
            "kept_mass": row.evidence.kept_mass,
            "coverage": {source: dict(domains) for source, domains in row.evidence.sources.items()},
        }

    def to_csv(self) -> str:
        """One line a case, best first; figures in full, shares as shares."""
        axes = [*self.axes]
        domains = [f"bits_per_byte {domain}" for domain in (*self.domains, mean_label(self.domains))]
        gains = [f"gain over {name}{part}" for name in ("CLM", "target before") for part in ("", " low", " high")]
        heads = ["case", *axes, *domains, "spread", *gains, "gain spread", "positions", "kept_mass", "failure"]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(heads)
        for row in self.sorted_rows():
            writer.writerow(self._csv_row(row, axes))
        return out.getvalue()

    def _csv_row(self, row: Row, axes: Sequence[str]) -> list[object]:
        figures: list[object] = [""] * (len(self.domains) + 2)
        if row.fused is not None:
            figures = [*row.fused.bits_per_byte().values(), row.fused.spread()[mean_label(self.domains)]]
        gains: list[object] = []
        for name in (row.clm_name, "target before"):
            gain = self.gain(row, name)
            gains += ["", "", ""] if gain is None else [gain.relative.value, gain.relative.low, gain.relative.high]
        shares = [_spread(row.gains_of_seeds()), row.evidence.positions, row.evidence.kept_mass, row.failure]
        labels = [row.labels.get(axis, "") for axis in axes]
        return [row.name, *labels, *figures, *gains, *("" if share is None else share for share in shares)]

    def metrics(self, row: Row) -> dict[str, float]:
        """A case's figures by MLflow's names of metrics."""
        if row.fused is None:
            return {}
        names = metric_parts(self.domains) | {mean_label(self.domains): MEAN}
        values: dict[str, float | None] = {
            f"bits_per_byte/{names[group]}": value for group, value in row.fused.bits_per_byte().items()
        }
        values |= {f"spread/{names[group]}": value for group, value in row.fused.spread().items()}
        for name in self.others_of(row):
            gain = self.gain(row, name)
            # CLM of these settings is the CLM of this case, however the table tells it from others.
            shown = CLM if name == row.clm_name else name
            if gain is not None:
                parts = {"": gain.relative.value, "_low": gain.relative.low, "_high": gain.relative.high}
                values |= {f"gain/{shown}{part}": value for part, value in parts.items()}
        values |= {"positions": row.evidence.positions, "kept_mass": row.evidence.kept_mass}
        return {name: value for name, value in values.items() if value is not None}
