"""Names of tasks, local data in the forms of their publishers, and scores item by item."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.evaluation.tasks.data import data_file, own_tasks, rows_of
from fusery.evaluation.tasks.scores import TaskScores, difference, task_summary
from fusery.evaluation.tasks.suites import BBH, OF_THE_LIBRARY, SUITES, expand, nearest
from fusery.runtime.errors import ConfigError, Mismatch


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def scores_of(values: list[float], task: str = "t", metric: str = "acc") -> TaskScores:
    return TaskScores(task, metric, 0, tuple(map(str, range(len(values)))), tuple(values))


def test_a_suite_unfolds_into_its_tasks_each_once() -> None:
    assert expand(["commonsense", "arc_easy", "mine"]) == (*SUITES["commonsense"], "mine")
    assert len(BBH) == 27
    assert len(expand(["reasoning"])) == 27
    assert all(
        task in OF_THE_LIBRARY for suite in ("reasoning", "commonsense", "reasoning_direct") for task in SUITES[suite]
    )


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    assert nearest("comonsense", []) == "did you mean 'commonsense'?"
    assert "'arc_easy'" in nearest("arc_esy", ["arc_easy", "boolq"])
    assert nearest("zzz", []).startswith("suites: reasoning, commonsense, code")


def test_bbh_is_read_from_its_own_files_and_code_packed_or_not(tmp_path: Path) -> None:
    (tmp_path / "bbh").mkdir()
    examples = [{"input": "True and False is", "target": "False"}]
    (tmp_path / "bbh" / "boolean_expressions.json").write_text(json.dumps({"canary": "x", "examples": examples}))
    assert rows_of(tmp_path, "bbh_cot_fewshot_boolean_expressions") == examples
    assert rows_of(tmp_path, "bbh_fewshot_boolean_expressions") == examples
    assert rows_of(tmp_path, "bbh_fewshot_navigate") is None
    program = {"prompt": "def f():\n", "test": "def check(f): pass", "entry_point": "f"}
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(program).encode()))
    assert rows_of(tmp_path, "humaneval") == [program]


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("openbookqa", "openbook_qa.jsonl"),
        ("humaneval", "HumanEval.jsonl"),
        ("bbh_fewshot_navigate", "bbh/navigate.json"),
        ("bbh_cot_fewshot_navigate", "bbh/navigate.json"),
        ("multipl_e_cpp", "multipl_e/cpp.jsonl"),
        ("mine", "mine.jsonl"),
    ],
)
def test_each_task_has_one_place_in_the_folder(task: str, file: str) -> None:
    assert data_file(task) == Path(file)


def test_what_the_folder_lacks_is_left_to_the_hub(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "arc_easy") is None
    assert own_tasks(tmp_path) == []
    assert own_tasks(None) == []
    write(tmp_path / "mine.jsonl", {"query": "a", "target": "b"})
    assert own_tasks(tmp_path) == ["mine"]
    write(tmp_path / "openbook_qa.jsonl", {"query": "a", "choices": ["b", "c"], "gold": 0})
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(b'{"query": "a", "target": "b"}'))
    assert own_tasks(tmp_path) == ["mine", "packed"]


@pytest.mark.parametrize("content", ["", "not json", "[1]"])
def test_files_that_are_no_task_data_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "arc_easy.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=r"arc_easy\.jsonl"):
        rows_of(tmp_path, "arc_easy")


def test_the_difference_of_a_model_to_itself_is_exactly_nothing() -> None:
    scores = [scores_of([1.0, 0.0, 1.0]), scores_of([0.0], "u")]
    assert difference(scores, scores, seed=0).to_json() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_pairing_finds_a_small_gain_that_the_spread_of_items_would_hide() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(400) < 0.5).astype(float)
    after = before.copy()
    after[np.flatnonzero(before == 0)[:12]] = 1.0
    gain = difference([scores_of(before.tolist())], [scores_of(after.tolist())], seed=1)
    assert gain.value == pytest.approx(12 / 400)
    assert gain.low > 0
    interval = scores_of(before.tolist()).interval(seed=1)
    assert interval.high - interval.low > gain.high - gain.low


def test_other_items_other_metrics_and_no_tasks_do_not_compare() -> None:
    for other in (scores_of([1.0, 0.0]), scores_of([1.0], metric="acc_norm"), scores_of([1.0], "u")):
        with pytest.raises(Mismatch, match="not the same items"):
            difference([scores_of([1.0])], [other], seed=0)
    with pytest.raises(Mismatch, match="0 and 0 tasks"):
        difference([], [], seed=0)
    with pytest.raises(Mismatch, match="2 scores of 1 items"):
        TaskScores("t", "acc", 0, ("a",), (1.0, 0.0))


def test_the_summary_has_suites_that_are_whole_and_the_difference_to_fused() -> None:
    whole = {task: scores_of([1.0, 0.0], task) for task in SUITES["commonsense"]}
    tasks = {"CLM": whole, "fused": {task: scores_of([1.0, 1.0], task) for task in SUITES["commonsense"]}}
    summary = task_summary(tasks, "CLM", seed=0)
    assert summary["suites"] == {"commonsense": 0.5}
    assert summary["fused_minus"]["value"] == 0.5
    assert (summary["tasks"]["boolq"]["items"], summary["tasks"]["boolq"]["cut"]) == (2, 0)
    assert "fused_minus" not in task_summary(tasks, "fused", seed=0)
    assert task_summary({"CLM": {"boolq": scores_of([1.0])}}, "CLM", seed=0)["suites"] == {}


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12))
def test_scores_survive_json_and_bounds_are_in_order(values: list[float]) -> None:
    scores = replace(scores_of(values), cut=len(values))
    assert TaskScores.from_json(json.loads(json.dumps(scores.to_json()))) == scores
    interval = scores.interval(seed=0, resamples=100)
    assert 0 <= interval.low <= interval.high <= 1
