"""The content of evaluation.json as what MLflow keeps: numbers by name, and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusery.runtime.text.domain_names import MEAN, mean_label, metric_parts

_GROUPS = ("bits_per_byte", "gain", "gate", "sources", "task", "coverage", "evidence_share")
"""The last two are those of earlier versions."""
_ROLES = {"target_before": "target before", "clm": "CLM", "sources": "source", "baselines": ""}


def models_of(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models of an evaluation.json by the names of its tables, fused last; what was not measured is left out."""
    return dict(sorted(_models(evaluation["models"]), key=lambda item: item[0] == "fused"))


def _models(models: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for role, content in models.items():
        name = _ROLES.get(role, role.replace("_", " "))
        if "mean_bits_per_byte" in content:
            yield name, content
        else:
            yield from ((f"{name} {key}".strip(), scores) for key, scores in content.items())


def final_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """ "bits_per_byte/<model>/<domain>", ".../mean", "gain/<baseline>", "gate/passed", "sources/<source>/…", "task/…".

    In the order in which MLflow's pages show the groups. What the report alone has room for is left out: shares of
    every source in every domain, and deciles.
    """
    values: dict[str, float] = {}
    parts = metric_parts(domain for scores in models_of(evaluation).values() for domain in scores["domains"])
    for model, scores in models_of(evaluation).items():
        domains = {parts[domain]: score["bits_per_byte"] for domain, score in scores["domains"].items()}
        for group, value in {**domains, MEAN: scores["mean_bits_per_byte"]}.items():
            values[f"bits_per_byte/{model}/{group}"] = value
    gains = evaluation["gains"]
    for baseline in ("target_before", "clm"):
        if baseline in gains:
            values[f"gain/{baseline}"] = gains[baseline]["relative"]["value"]
    if "verdict" in evaluation:
        values["gate/passed"] = float(evaluation["verdict"]["passed"])
    for model, of_model in evaluation.get("tasks", {}).items():
        tasks = metric_parts(of_model["tasks"])
        values |= {f"task/{model}/{tasks[task]}": scores["value"] for task, scores in of_model["tasks"].items()}
    return values | _of_sources(evaluation)


def is_measure(metric: str) -> bool:
    """Whether a metric in MLflow is one of `final_metrics`, of whatever evaluation, and not of a training or a user."""
    return metric.partition("/")[0] in _GROUPS


def _of_sources(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """ "sources/<source>/<share>", means over domains: of positions with evidence, of kept mass, of the evidence."""
    found: dict[str, list[float]] = {}
    for source, domains in evaluation["coverage"].items():
        for shares in domains.values():
            for key in ("positions", "kept_mass"):
                if shares.get(key) is not None:
                    found.setdefault(f"sources/{source}/{key}", []).append(shares[key])
    for of_source in evaluation["wins"].values():
        for source, share in of_source.items():
            found.setdefault(f"sources/{source}/evidence_share", []).append(share)
    return {name: sum(values) / len(values) for name, values in found.items()}


def evaluation_table(evaluation: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Bits per byte in columns: a row for each model and domain, and one for its mean over domains."""
    rows = [
        (model, group, value)
        for model, scores in models_of(evaluation).items()
        for group, value in [
            *((domain, score["bits_per_byte"]) for domain, score in scores["domains"].items()),
            (mean_label(scores["domains"]), scores["mean_bits_per_byte"]),
        ]
    ]
    return {key: [row[place] for row in rows] for place, key in enumerate(("model", "domain", "bits_per_byte"))}


def coverage_line(evaluation: Mapping[str, Any]) -> str:
    """'docs 97.1 % of positions, python 71.3 %': of each source, the mean over domains; '' where nothing is known."""
    lines = []
    for source, domains in evaluation["coverage"].items():
        shares = [shares["positions"] for shares in domains.values() if shares["positions"] is not None]
        if shares:
            lines.append(f"{source} {sum(shares) / len(shares):.1%} of positions")
    return ", ".join(lines)
