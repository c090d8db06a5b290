"""lm-evaluation-harness called by itself: its loading of model and data, its definition, its loop; nothing of fusery's.

Rows are in the form of the hub's data sets, written as a local data set, so that no hub is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def scored_by_itself(definition: str, rows: Sequence[Mapping[str, Any]], model: Path, folder: Path) -> list[float]:
    """The items' acc_norm, or acc where the task has no other; `definition`: a YAML in the library's folder."""
    import lm_eval
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    theirs = load_yaml(Path(lm_eval.__file__).parent / "tasks" / definition)
    apart = ("dataset_name", "training_split", "validation_split", "tag")
    place = {"data_files": {"test": str(folder / "test.jsonl")}, "cache_dir": str(folder / "cache")}
    task = {key: value for key, value in theirs.items() if key not in apart} | {
        "dataset_path": "json",
        "dataset_kwargs": place,
        "test_split": "test",
    }
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[task],
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    assert found is not None
    (samples,) = found["samples"].values()
    metric = "acc_norm" if "acc_norm" in samples[0] else "acc"
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    return [float(sample[metric]) for sample in ordered]


def arc_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of query, choices and gold in the form of allenai/ai2_arc, by hand."""
    labels = "ABCDE"[: len(row["choices"])]
    question = row["query"][len("Question: ") :]
    choices = {"text": row["choices"], "label": list(labels)}
    return {"question": question, "choices": choices, "answerKey": labels[row["gold"]]}
