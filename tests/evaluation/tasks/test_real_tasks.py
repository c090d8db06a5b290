"""A task's score on a real LLM is what lm-evaluation-harness says, called by itself on the same questions.

Needs the models of `make small-llms`, and task data of one's own (docs/evaluation.md) in examples/work/tasks; skips
where one of them is not there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.runs.task_by_itself import arc_row, scored_by_itself

pytest.importorskip("lm_eval")

from fusery.evaluation.tasks.library import TaskRunner, TaskSettings

WORK = Path(__file__).parents[3] / "examples" / "work"
MODEL, DATA = WORK / "small-llms" / "models" / "smollm2", WORK / "tasks"
QUESTIONS = 20
needs_data = pytest.mark.skipif(
    not (MODEL / "model.safetensors").exists() or not (DATA / "arc_easy.jsonl").exists(),
    reason=f"needs {MODEL} (make small-llms) and {DATA}/arc_easy.jsonl",
)
pytestmark = [needs_data, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]


def test_arc_easy_on_a_real_llm_scores_as_the_library_by_itself(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    ours = TaskRunner(str(MODEL), None, TaskSettings(DATA, limit=QUESTIONS)).scores("arc_easy")
    lines = (DATA / "arc_easy.jsonl").read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    rows = [arc_row(json.loads(line)) for line in lines]
    assert list(ours.scores) == scored_by_itself("arc/arc_easy.yaml", rows, MODEL, tmp_path)
    assert 0.25 < ours.mean < 1


@pytest.mark.skipif(not (DATA / "bbh" / "boolean_expressions.json").exists(), reason=f"needs {DATA}/bbh")
def test_a_real_llm_is_right_in_some_of_the_questions_with_answers_only() -> None:
    settings = TaskSettings(DATA, limit=QUESTIONS)
    scores = TaskRunner(str(MODEL), None, settings).scores("bbh_fewshot_boolean_expressions")
    assert 0 < scores.mean < 1
    assert scores.cut == 0
