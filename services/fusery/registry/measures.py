"""The content of evaluation.json as what MLflow keeps: numbers by name, and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusery.domain_names import MEAN, mean_label, metric_parts

_GROUPS = ("bits_per_byte", "gain", "gate", "task", "coverage", "evidence_share")
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
    """ "bits_per_byte/<model>/<domain>", ".../mean", "gain/<baseline>", "gate/passed", "task/…", and of coverage."""
    values: dict[str, float] = {}
    parts = metric_parts(_domains(evaluation))
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
    return values | _coverage(evaluation, parts)


def _domains(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """The domains of all models and of the training text, some more than once."""
    for scores in models_of(evaluation).values():
        yield from scores["domains"]
    for of_source in evaluation["coverage"].values():
        yield from of_source
    yield from evaluation["wins"]


def is_measure(metric: str) -> bool:
    """Whether a metric in MLflow is one of `final_metrics`, of whatever evaluation, and not of a training or a user."""
    return metric.partition("/")[0] in _GROUPS


def _coverage(evaluation: Mapping[str, Any], parts: Mapping[str, str]) -> dict[str, float]:
    """ "coverage/<source>/<domain>/<share>" and "evidence_share/<source>/<domain>"; unmeasured ones left out."""
    values: dict[str, float] = {}
    for source, domains in evaluation["coverage"].items():
        for domain, shares in domains.items():
            plain = {key: value for key, value in shares.items() if isinstance(value, int | float)}
            deciles = {f"kept_mass_p{n}0": value for n, value in enumerate(shares.get("kept_mass_deciles") or (), 1)}
            values |= {f"coverage/{source}/{parts[domain]}/{key}": value for key, value in (plain | deciles).items()}
    for domain, of_source in evaluation["wins"].items():
        values |= {f"evidence_share/{source}/{parts[domain]}": share for source, share in of_source.items()}
    return values


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
