"""The model card: what a fused model is, how good, and where it comes from. Markdown with a YAML header."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fusery.registry.record import FusionRecord, Param

LICENCE_NOTE = (
    "The weights are those of the target after further training on distributions of the sources: the licences\n"
    "of the target, of the sources and of the corpus decide what may be done with them. They are named in\n"
    "model_card.md; fusery does not know them and adds no terms of its own.\n"
)


def model_card(record: FusionRecord) -> str:
    """The card of `record`'s model."""
    header = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- knowledge-fusion\n---"
    parts = [
        header,
        f"# {record.model_name}",
        "A causal language model made by knowledge fusion: the target's continual training on text, with the fused "
        "next-token distributions of the sources as additional supervision.",
        "## Evaluation",
        record.report_markdown.strip(),
        "## Lineage",
        _table(record.lineage),
        "## Settings",
        _table(record.params),
        "## Use",
        f"```python\nimport mlflow\n\ngenerate = mlflow.transformers.load_model"
        f'("models:/{record.model_name}@{record.alias}")\n'
        f"generate({json.dumps(record.input_example)}, max_new_tokens=50)\n```",
        "## Licence",
        LICENCE_NOTE.strip(),
    ]
    return "\n\n".join(parts) + "\n"


def description(record: FusionRecord) -> str:
    """A short text for the list of versions: where the version comes from and how good it is."""
    models, gains = record.evaluation["models"], record.evaluation["gains"]
    named = {"fused": "fused", "before fusion": "target_before", "plain continual training": "clm"}
    means = [f"{name} {models[role]['mean_bits_per_byte']:.4f}" for name, role in named.items() if role in models]
    text = f"Fusion run `{record.run_id}`. Mean bits per byte over the held-out domains: {', '.join(means)}."
    if "clm" in gains:
        change = gains["clm"]["relative"]
        value, low, high = (_percent(change[key]) for key in ("value", "low", "high"))
        text += f"\nAgainst plain continual training: {value} bits per byte, 95 % interval [{low}, {high}]."
    return text


def _table(values: Mapping[str, Param]) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in sorted(values.items())]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else "none"


def _percent(share: float) -> str:
    return f"{share * 100:+.2f} %".replace("-", "−")


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
