"""The card's header as the Hub reads it: licence, base models, results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from fusery.registry.model_card import Lineage, TrainedModel, description, model_card, trained_card
from fusery.registry.record import FusionRecord

Make = Callable[..., FusionRecord]


@pytest.fixture
def record(make_record: Make, tmp_path: Path) -> FusionRecord:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text('{"model_type": "llama"}')
    return make_record(tmp_path, folder)


def header_of(card: str) -> dict[str, Any]:
    header: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return header


def test_the_hub_finds_bits_per_byte_and_task_scores_in_the_card(record: FusionRecord) -> None:
    arc = {"value": 0.5, "low": 0.4, "high": 0.6, "items": 200, "metric": "acc_norm", "few_shot": 0}
    tasks = {"fused": {"tasks": {"arc_easy": arc}, "suites": {}}, "CLM": {"tasks": {}, "suites": {}}}
    card = ModelCard(model_card(replace(record, evaluation={**record.evaluation, "tasks": tasks})))
    bits, task = card.data.eval_results or []
    assert card.data.model_name == "tiny"
    assert (bits.task_type, bits.dataset_name) == ("text-generation", "held-out text of tiny-0123456789")
    assert (bits.metric_type, bits.metric_value) == ("bits_per_byte", pytest.approx(2.2))
    assert (task.task_type, task.dataset_type, task.metric_type, task.metric_value) == (
        "text-generation",
        "arc_easy",
        "acc_norm",
        0.5,
    )
    assert task.metric_name == "acc_norm, 0 examples before each question, 200 items"


def test_a_run_without_tasks_has_one_result(record: FusionRecord) -> None:
    assert len(ModelCard(model_card(record)).data.eval_results or []) == 1


def test_a_licence_of_the_hub_needs_no_name_and_no_link(record: FusionRecord) -> None:
    header = header_of(model_card(record))
    assert header["license"] == "gemma"
    assert not {"license_name", "license_link"} & header.keys()


def test_another_licence_has_its_name_and_links_to_the_file_beside_the_card(record: FusionRecord) -> None:
    origin = replace(record.origin, licence="other", licence_name="llama2-and-gemma")
    header = header_of(model_card(replace(record, origin=origin)))
    assert (header["license"], header["license_name"]) == ("other", "llama2-and-gemma")
    assert header["license_link"] == "LICENSE.txt"
    trained = TrainedModel("docs", None, False, 0.5, "tail", 10, 1, Lineage(origin, {}))
    # No other file lies beside this one.
    assert header_of(trained_card(trained))["license_link"] == "README.md"


HOSTILE = "<script>alert(1)</script> ![p](http://x/y) [l](javascript:x) `code` | cell ~~s~~ **b**\n# head\x1b[2J\u202e"


def kinds_of(markdown: str) -> set[str]:
    """What begins in the text beside headings, lists, tables and our own code and emphasis."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(markdown)
    inner = [child for token in tokens for child in token.children or []]
    return {token.type for token in (*tokens, *inner)}


def test_text_from_outside_is_text_in_the_card(record: FusionRecord) -> None:
    licensed = replace(record.origin.models[0], model=HOSTILE, licence=HOSTILE, found_in=HOSTILE)
    config = record.config_file
    config.write_text("name: x  # ````\n# ````\n# <script>\n")
    changed = replace(
        record,
        model_name='n" + evil() + "<b>`',
        origin=replace(record.origin, models=(licensed,)),
        lineage={"source [x](y)": HOSTILE},
        params={"a|b": HOSTILE},
    )
    body = model_card(changed).split("\n---\n", 1)[1]
    wrong = {"html_inline", "html_block", "link_open", "image", "s_open", "code_block"}
    assert not kinds_of(body) & wrong
    assert not set(body) & {"\x1b", "\u202e"}
    assert 'load_model("models:/n\\" + evil() + \\"<b>`' in body
    trained = TrainedModel(f"me/{HOSTILE}", HOSTILE, False, 0.3, "tail", 1, 1, Lineage(changed.origin, changed.lineage))
    assert not kinds_of(trained_card(trained).split("\n---\n", 1)[1]) & wrong
    assert kinds_of(description(changed)) <= {
        "paragraph_open",
        "paragraph_close",
        "inline",
        "text",
        "code_inline",
        "softbreak",
    }
