"""Rows of task data: every key checked, and brought into the form of the hub's data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusery.evaluation.tasks.data import hub_rows, rows_of
from fusery.runtime.errors import ConfigError

Row = dict[str, Any]
CHOICE = {"query": "a", "choices": ["b", "c"], "gold": 0}
EXACT = {"query": "a", "target": "b"}
HELLASWAG = {"ctx_a": "A fox.", "ctx_b": "It", "ctx": "A fox. It", "activity_label": "Jumping", "endings": ["a", "b"]}


def test_multiple_choice_rows_become_those_of_the_hub() -> None:
    row = {"query": "Question: What burns?", "choices": ["wood", "water"], "gold": 0}
    choices = {"text": ["wood", "water"], "label": ["A", "B"]}
    assert hub_rows("arc_easy", [row]) == [{"question": "What burns?", "choices": choices, "answerKey": "A"}]
    (found,) = hub_rows("openbookqa", [row | {"query": "What burns is"}])
    assert found == {"question_stem": "What burns is", "choices": choices, "answerKey": "A"}


def test_boolq_is_taken_apart_into_passage_and_question() -> None:
    query = "Passage: It rains.\nQuestion: odd?\nQuestion: is it wet?"
    (row,) = hub_rows("boolq", [{"query": query, "choices": ["no", "yes"], "gold": 1}])
    assert row == {"passage": "It rains.\nQuestion: odd?", "question": "is it wet", "label": 1}


@pytest.mark.parametrize("label", ["1", 1])
def test_hellaswag_is_taken_as_published_or_prepared(label: object) -> None:
    (row,) = hub_rows("hellaswag", [{"ind": 4, **HELLASWAG, "label": label}])
    assert (row["label"], row["endings"], row["ctx_b"]) == ("1", ["a", "b"], "It")
    assert hub_rows("hellaswag", [CHOICE]) == [{"query": "a", "choices": ["b", "c"], "label": "0"}]


def test_multipl_e_is_taken_as_published() -> None:
    row = {
        "name": "HumanEval_0",
        "language": "js",
        "prompt": "f",
        "tests": "t",
        "stop_tokens": ["\n}"],
        "doctests": "x",
    }
    assert hub_rows("multipl_e_js", [row]) == [{"prompt": "f", "tests": "t", "stop_tokens": ["\n}"]}]


def test_a_row_of_one_s_own_keeps_what_is_read_of_it() -> None:
    assert hub_rows("mine", [{**CHOICE, "id": 7}]) == [CHOICE]
    assert hub_rows("mine", [{**EXACT, "target": " b\n"}]) == [EXACT]


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("arc_easy", CHOICE | {"gold": 3}, "gold is 3, expected the place of one of 2 choices, from 0; expected query"),
        (
            "arc_easy",
            {"query": "a"},
            "no choices, it has query; expected query .text., choices .two texts or more. and",
        ),
        ("mine", {"question": "a", "answer": "b"}, "no query, it has question, answer; .*, or query .text. and target"),
        ("mine", {"query": "a", "choices": ["b", "c"], "label": 0}, "no gold, it has query, choices, label"),
        ("mine", CHOICE | {"gold": "B"}, "gold is 'B', expected the place of one of 2 choices"),
        ("mine", CHOICE | {"gold": True}, "gold is True, expected the place"),
        ("mine", CHOICE | {"gold": -1}, "gold is -1, expected the place"),
        ("mine", CHOICE | {"choices": "bc"}, "choices is 'bc', expected a list of texts, 2 or more, none empty"),
        ("mine", CHOICE | {"choices": ["b"]}, ".*expected a list of texts, 2 or more"),
        ("mine", CHOICE | {"choices": ["b", 3]}, ".*expected a list of texts, 2 or more"),
        ("mine", CHOICE | {"query": 3}, "query is 3, expected text"),
        ("mine", EXACT | {"target": 3}, "target is 3, expected text"),
        ("mine", EXACT | {"target": "two\nlines"}, "target is 'two.nlines', expected one line"),
        ("mine", EXACT | {"target": " "}, "target is ' ', expected one line"),
        ("boolq", CHOICE | {"query": "a\nQuestion: b?"}, r"choices are \['b', 'c'\], expected no and yes"),
        ("hellaswag", HELLASWAG | {"label": ""}, "label is '', expected the place of one of 2 endings"),
        ("hellaswag", {"ctx_a": "A"}, "no endings, it has ctx_a; .* or as published: ctx_a, ctx_b"),
        ("bbh_fewshot_navigate", {"input": "a", "target": True}, "target is True, expected text"),
        ("humaneval", {"prompt": "a", "tests": "b"}, "no test, it has prompt, tests; expected prompt, test and entry"),
        ("multipl_e_js", {"prompt": "a", "tests": "b", "stop_tokens": []}, ".*expected a list of texts, 1 or more"),
    ],
)
def test_a_row_without_what_the_task_reads_is_refused(task: str, row: Row, message: str) -> None:
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        hub_rows(task, [row])


def test_rows_of_two_forms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"row 2 has query, target, row 1 has query, choices, gold; expected one form"):
        hub_rows("mine", [CHOICE, EXACT])


def test_a_broken_row_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(f"{json.dumps(CHOICE)}\n{json.dumps(CHOICE | {'gold': 7})}\n")
    with pytest.raises(ConfigError, match=r"mine\.jsonl: row 2: gold is 7"):
        rows_of(tmp_path, "mine")
