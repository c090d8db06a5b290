"""A task's scores are those of lm-evaluation-harness called by itself, item by item, on rows in its data's form.

What is compared is the whole way: the conversion of rows, the definition, the prompts, the loading of the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from support.models.pico_models import pico_model
from support.runs.task_by_itself import arc_row, scored_by_itself

pytest.importorskip("lm_eval")

from fusery.evaluation.tasks.library import TaskRunner, TaskSettings

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")

Row = dict[str, Any]
WORDS = ("the lazy dog", "five dozen liquor jugs", "a cup", "knowledge fusion of large language models", "Köln")


def question(number: int) -> Row:
    choices = [WORDS[(number + step) % 5] for step in range(2 + number % 3)]
    return {"query": f"Question: Who jumps over number {number}?", "choices": choices, "gold": number % len(choices)}


def as_openbook(row: Mapping[str, Any]) -> Row:
    found = arc_row({**row, "query": f"Question: {row['query']}"})
    return {"question_stem": found.pop("question"), **found}


def passage(number: int) -> Row:
    text = (
        f"Passage: The quick brown fox {number}.\nIt jumps.\nQuestion: does fox {number} jump over {WORDS[number % 5]}?"
    )
    return {"query": text, "choices": ["no", "yes"], "gold": number % 2}


def as_boolq(row: Mapping[str, Any]) -> Row:
    number = row["query"].split("fox ")[1].split(".")[0]
    asked = f"does fox {number} jump over {WORDS[int(number) % 5]}"
    return {"passage": f"The quick brown fox {number}.\nIt jumps.", "question": asked, "label": row["gold"]}


def published(number: int) -> Row:
    """A row as HellaSwag is published."""
    first, second = f"A fox [step] sees number {number}.", "then the fox"
    endings = [f"jumps over {WORDS[(number + step) % 5]} [title] Done." for step in range(4)]
    row = {"ctx_a": first, "ctx_b": second, "ctx": f"{first} {second}", "activity_label": "Jumping"}
    return {"ind": number, **row, "endings": endings, "split": "val", "label": str(number % 4)}


def prepared(number: int) -> Row:
    """The same row as query, choices, gold: cleaned as evaluation sets of many projects keep it, by hand."""
    endings = [f"jumps over {WORDS[(number + step) % 5]}. Done." for step in range(4)]
    return {
        "query": f"Jumping: A fox sees number {number}. Then the fox",
        "choices": endings,
        "gold": number % 4,
    }


CASES: dict[str, tuple[str, str, Callable[[int], Row], Callable[[int], Row]]] = {
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy", question, lambda number: arc_row(question(number))),
    "openbookqa": ("openbookqa/openbookqa.yaml", "openbook_qa", question, lambda number: as_openbook(question(number))),
    "boolq": ("super_glue/boolq/default.yaml", "boolq", passage, lambda number: as_boolq(passage(number))),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag", prepared, published),
}


@pytest.mark.parametrize("task", CASES)
def test_every_item_scores_as_in_the_library_by_itself(task: str, tmp_path: Path) -> None:
    definition, file, ours, theirs = CASES[task]
    (tmp_path / f"{file}.jsonl").write_text("\n".join(json.dumps(ours(number)) for number in range(12)))
    model = pico_model("llama")
    found = TaskRunner(str(model), None, TaskSettings(tmp_path)).scores(task)
    expected = scored_by_itself(definition, [theirs(number) for number in range(12)], model, tmp_path / "hub")
    assert list(found.scores) == expected
    assert set(expected) == {0.0, 1.0}


def test_hellaswag_may_stand_in_the_folder_as_it_is_published(tmp_path: Path) -> None:
    model, rows = pico_model("llama"), [published(number) for number in range(6)]
    (tmp_path / "hellaswag.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = TaskRunner(str(model), None, TaskSettings(tmp_path)).scores("hellaswag")
    assert list(found.scores) == scored_by_itself("hellaswag/hellaswag.yaml", rows, model, tmp_path / "hub")
