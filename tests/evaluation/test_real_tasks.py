"""A task's score on a real LLM is what lm-evaluation-harness says, called by itself on the same questions.

Needs the models of `make small-llms`, and task data of one's own (docs/evaluation.md) in examples/work/tasks; skips
where one of them is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from fusery.evaluation.task_library import TaskRunner, TaskSettings

WORK = Path(__file__).parents[2] / "examples" / "work"
MODEL, DATA = WORK / "small-llms" / "models" / "smollm2", WORK / "tasks"
QUESTIONS = 20
needs_data = pytest.mark.skipif(
    not (MODEL / "model.safetensors").exists() or not (DATA / "arc_easy.jsonl").exists(),
    reason=f"needs {MODEL} (make small-llms) and {DATA}/arc_easy.jsonl",
)
pytestmark = [needs_data, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]


def as_on_the_hub(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the form of allenai/ai2_arc, by hand."""
    labels = "ABCDE"[: len(row["choices"])]
    question = row["query"][len("Question: ") :]
    return {
        "question": question,
        "choices": {"text": row["choices"], "label": list(labels)},
        "answerKey": labels[row["gold"]],
    }


def by_itself(folder: Path) -> Mapping[str, Any]:
    """The library's own results and samples: its loading of the model, its definition, its loop."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    lines = (DATA / "arc_easy.jsonl").read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    rows = "".join(json.dumps(as_on_the_hub(json.loads(line))) + "\n" for line in lines)
    (folder / "test.jsonl").write_text(rows, encoding="utf-8")
    import lm_eval

    theirs = load_yaml(Path(lm_eval.__file__).parent / "tasks/arc/arc_easy.yaml")
    places = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "test.jsonl")}}}
    apart = ("dataset_name", "training_split", "validation_split", "tag")
    task = {key: value for key, value in theirs.items() if key not in apart} | places
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(MODEL), "dtype": "float32"},
        tasks=[task],
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    assert found is not None
    return found


def test_arc_easy_on_a_real_llm_scores_as_the_library_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    torch.set_num_threads(1)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    ours = TaskRunner(str(MODEL), None, TaskSettings(DATA, limit=QUESTIONS)).scores("arc_easy")
    theirs = by_itself(tmp_path)
    assert ours.mean == pytest.approx(theirs["results"]["arc_easy"]["acc_norm,none"], abs=1e-12)
    assert list(ours.scores) == [sample["acc_norm"] for sample in theirs["samples"]["arc_easy"]]
    assert 0.25 < ours.mean < 1
