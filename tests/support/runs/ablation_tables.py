"""Ablation tables with scores that can be computed by hand: two domains, two documents each, one bit a byte."""

from __future__ import annotations

from collections.abc import Sequence

from fusery.evaluation.scores import Scores
from fusery.run.ablation.results import CLM, Evidence, Figures, Row, Table

DOMAINS = ("prose", "prose", "code", "code")


def scores(*bits_per_byte: float) -> Scores:
    """Of documents of 100 bytes each."""
    ids = tuple(f"d{number}" for number in range(len(bits_per_byte)))
    return Scores(ids, DOMAINS, tuple(100 * value for value in bits_per_byte), (100,) * len(bits_per_byte))


def flat(*of_seeds: float) -> Figures:
    """A model with the same bits per byte everywhere, for each seed."""
    return Figures.of([scores(*[value] * len(DOMAINS)) for value in of_seeds])


def row(name: str, of_seeds: Sequence[float], clm: Figures, **labels: str) -> Row:
    settings = {key: float(value) for key, value in labels.items()}
    evidence = Evidence(0.9, 0.75, {"docs": {"prose": {"positions": 0.9, "kept_mass": 0.75}}})
    return Row(name, labels, settings, f"digest of {name}", flat(*of_seeds), clm, CLM, evidence)


def table() -> Table:
    """A case 10 % better than CLM, one 10 % worse, one that failed; three seeds."""
    clm = flat(1.0, 1.0, 1.0)
    rows = (
        row("worse", (1.1, 1.1, 1.1), clm, **{"training.clm_weight": "0.5"}),
        Row("gone", {"training.clm_weight": "0.7"}, {"training.clm_weight": 0.7}, "digest", failure="no room"),
        row("better", (0.8, 0.9, 1.0), clm, **{"training.clm_weight": "0.9"}),
    )
    beside = {"target before": flat(2.0), CLM: clm}
    return Table("pico", "pico-1", "run-1", ("training.clm_weight",), (0, 1, 2), rows, beside, seconds=12.0)
