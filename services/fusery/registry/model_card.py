"""The model card in the form of Hugging Face: what a fused model is, how good, and where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fusery.registry.record import FusionRecord, ModelLicence, Origin, Param
from fusery.registry.redaction import published_yaml
from fusery.runtime.text.shown import in_markdown, in_markdown_code, shown

_LICENCE_FILE = "LICENSE.txt"
"""Beside the published card: what fusery read of the licences."""
_CARD = "README.md"
_TASK = "text-generation"
_LINE_ENDS = "\n\t"


def model_card(record: FusionRecord) -> str:
    """The card of `record`'s model: a YAML header for the Hub, then Markdown."""
    tags = ["knowledge-fusion", "fusery", f"gate-{'passed' if record.passed else 'failed'}"]
    header = _header(record.origin, tags, _LICENCE_FILE) | {"model-index": _model_index(record)}
    config = published_yaml(record.config_file.read_text(encoding="utf-8")).strip()
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}\n---",
        f"# {in_markdown(record.model_name)}",
        "A causal language model made by knowledge fusion: the target's continual training on text, with the fused "
        "next-token distributions of the sources as additional supervision.",
        "## Evaluation",
        record.report_markdown.strip(),
        "## Licence",
        licence_note(record.origin),
        "## Lineage",
        _table(record.lineage),
        "## Settings",
        f"The run's YAML:\n\n{_fenced(config)}",
        _table(record.params),
        "## Use",
        _use(record),
    ]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a training's model comes from: models and licences, and short texts by name, as `FusionRecord.lineage`."""

    origin: Origin
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a training says of its model. `target`: a name on the Hub or a folder; `lineage`: None outside of a run."""

    target: str
    revision: str | None
    clm_only: bool
    clm_weight: float
    tail: str
    tokens: int
    steps: int
    lineage: Lineage | None


def trained_card(trained: TrainedModel) -> str:
    """The card in the folder of a model that is trained and not yet measured: what it is and where it comes from."""
    name = trained.target.rstrip("/").rsplit("/", 1)[-1]
    lineage = trained.lineage
    plain = {"library_name": "transformers", "pipeline_tag": _TASK}
    header = plain if lineage is None else _header(lineage.origin, ["fusery", *_METHODS[trained.clm_only][0]], _CARD)
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}\n---",
        f"# {in_markdown(name)}, trained by fusery",
        _method(trained, name),
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\ntokenizer = AutoTokenizer.from_pretrained(folder)\n```",
        "## Licence",
        "The licence of the target applies; so may those of the sources that it learned from."
        if lineage is None
        else licence_note(lineage.origin),
        *([] if lineage is None else ["## Lineage", _table(lineage.values)]),
    ]
    return "\n\n".join(parts) + "\n"


_METHODS = {
    True: ([], "continual training with the causal-LM loss alone (the baseline of a fusion)"),
    False: (["knowledge-fusion"], "knowledge fusion: {clm:g} · CLM + {fusion:g} · fusion, tail `{tail}`"),
}
"""By whether the training was CLM alone: tags, and the method in words."""


def _method(trained: TrainedModel, name: str) -> str:
    at = f" at revision {in_markdown_code(trained.revision)}" if trained.revision else ""
    weight = trained.clm_weight
    how = _METHODS[trained.clm_only][1].format(clm=weight, fusion=1 - weight, tail=trained.tail)
    return (
        f"Target: {in_markdown_code(name)}{at}. Method: {how} (FuseLLM, arXiv 2401.10491). {trained.tokens:,} tokens "
        f"in {trained.steps:,} steps."
    )


def _header(origin: Origin, tags: Sequence[str], licence_link: str) -> dict[str, Any]:
    """`licence_link`: the file beside the card that says under which terms the model stands, where no id does."""
    named = {"license_name": origin.licence_name, "license_link": licence_link} if origin.licence_name else {}
    return {
        "library_name": "transformers",
        "pipeline_tag": _TASK,
        "base_model": list(origin.base_models),
        "base_model_relation": "finetune",
        **({"datasets": list(origin.datasets)} if origin.datasets else {}),
        "license": origin.licence,
        **named,
        "tags": list(tags),
    }


def _model_index(record: FusionRecord) -> list[dict[str, Any]]:
    """The results as the Hub shows them: bits per byte of the run's own held-out text, and scores in tasks."""
    measured = record.evaluation["models"]["fused"]["mean_bits_per_byte"]
    held_out = f"held-out text of {record.run_id}"
    name = "bits per byte, mean over domains (lower is better)"
    results = [_result(held_out, "held-out", "bits_per_byte", measured, name)]
    tasks = record.evaluation.get("tasks", {}).get("fused", {"tasks": {}})["tasks"]
    for task, scores in tasks.items():
        name = f"{scores['metric']}, {scores['few_shot']} examples before each question, {scores['items']} items"
        results.append(_result(task, task, scores["metric"], scores["value"], name))
    return [{"name": record.model_name, "results": results}]


def _result(dataset: str, dataset_type: str, metric: str, value: float, name: str) -> dict[str, Any]:
    return {
        "task": {"type": _TASK},
        "dataset": {"name": dataset, "type": dataset_type},
        "metrics": [{"type": metric, "value": value, "name": name}],
    }


def _use(record: FusionRecord) -> str:
    which = f"{record.model_name}@{record.alias}" if record.passed else f"{record.model_name}/VERSION"
    return (
        f"```python\nimport mlflow\n\n"
        f"generate = mlflow.transformers.load_model({json.dumps(f'models:/{which}')})\n"
        f"generate({json.dumps(record.input_example)}, max_new_tokens=50)\n```\n\n"
        f"Without MLflow's loader:\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"folder = mlflow.artifacts.download_artifacts({json.dumps(f'models:/{which}')})\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n```"
    )


def licence_note(origin: Origin) -> str:
    """Which licences the model comes from and what they ask; what fusery read there, and no legal advice."""
    lines = [f"- {_licence_line(model)}" for model in origin.models]
    return (
        "The weights are those of the target after further training on distributions of the sources, so the licences "
        "of the target, the sources and the corpus decide what may be done with them. fusery adds no terms of its own. "
        "What it read (no legal advice):\n\n" + "\n".join(lines)
    )


def _licence_line(model: ModelLicence) -> str:
    asks = f"; {model.asks}" if model.asks else ""
    accepted = f"; accepted {model.accepted}" if model.accepted else ""
    said = in_markdown(f"{model.licence} ({model.found_in}){asks}{accepted}")
    return f"{model.role}, {in_markdown_code(model.model)}: {said}"


def description(record: FusionRecord) -> str:
    """A short text for the list of versions: where the version comes from and how good it is."""
    models, gains = record.evaluation["models"], record.evaluation["gains"]
    named = {"fused": "fused", "before fusion": "target_before", "plain continual training": "clm"}
    means = [f"{name} {models[role]['mean_bits_per_byte']:.4f}" for name, role in named.items() if role in models]
    run = in_markdown_code(record.run_id)
    text = f"Fusion run {run}. Mean bits per byte over the held-out domains: {', '.join(means)}."
    if "clm" in gains:
        change = gains["clm"]["relative"]
        value, low, high = (f"{change[key] * 100:+.2f} %".replace("-", "−") for key in ("value", "low", "high"))
        text += f"\nAgainst plain continual training: {value} bits per byte, 95 % interval [{low}, {high}]."
    return f"{text}\n{in_markdown(gate_text(record.evaluation))}"


def gate_text(evaluation: Mapping[str, Any]) -> str:
    """'Gate passed.', or 'Gate failed:' and what does not hold."""
    verdict = evaluation.get("verdict")
    if verdict is None:
        return "Gate failed: it has not judged."
    if verdict["passed"]:
        return "Gate passed."
    lost = [f"{check['name']}: {check['reason']}" for check in verdict["checks"] if not check["passed"]]
    return f"Gate failed. Not held: {'; '.join(lost)}."


def _table(values: Mapping[str, Param]) -> str:
    lines = [f"| {in_markdown(key)} | {in_markdown(str(value))} |" for key, value in sorted(values.items())]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else "none"


def _fenced(text: str) -> str:
    """A block of YAML, fenced with more backticks than stand in it."""
    fence = "`" * max(4, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{shown(text, keeps=_LINE_ENDS)}\n{fence}"
