"""Definitions of tasks for lm-evaluation-harness: its own on rows of a folder, those of a user's tasks, and of code.

Its own are kept but for one thing. Its few-shot BBH with answers only compares the answer as the model gives it, with
the space after "A:", with a target that has none, and so gives every model 0: the space is taken away here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusery.evaluation.tasks import sandbox as code_sandbox
from fusery.evaluation.tasks.data import Row
from fusery.evaluation.tasks.suites import FEWSHOT, MULTIPLE

VERSION = 2
"""Of what fusery itself decides in a task (these definitions, the form of rows, the metric); another: measured anew."""
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_MAX_NEW_TOKENS = 512
_STRIPPED = [{"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
_PLACES = ("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "fewshot_split")


def changes_to(name: str, rows: Sequence[Row] | None) -> dict[str, Any]:
    """What is changed in the library's definition of a task of the suites, for `rows`; None: for the hub's data."""
    changes: dict[str, Any] = {"filter_list": _STRIPPED} if name.startswith(FEWSHOT) else {}
    if rows is not None:
        changes |= {**dict.fromkeys(_PLACES), "test_split": "test", "custom_dataset": _dataset(rows)}
        if "query" in rows[0]:
            # HellaSwag's, prepared already.
            changes["process_docs"] = None
    return changes


def of_ones_own(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """A definition for the rows of a user's task: multiple choice, or an exact answer on one line."""
    shape: dict[str, Any]
    metrics = ("acc", "acc_norm") if "choices" in rows[0] else ("exact_match",)
    if "choices" in rows[0]:
        shape = {"output_type": "multiple_choice", "doc_to_target": "gold", "doc_to_choice": "choices"}
    else:
        shape = {
            "output_type": "generate_until",
            "doc_to_target": "target",
            "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 64},
            "filter_list": _STRIPPED,
        }
    return {
        "task": name,
        "test_split": "test",
        "custom_dataset": _dataset(rows),
        "doc_to_text": "query",
        "metric_list": [_mean(metric) for metric in metrics],
        **shape,
    }


def of_code(name: str, rows: Sequence[Row] | None) -> dict[str, Any]:
    """HumanEval or MultiPL-E: the model continues a program, which is run with its tests in the sandbox."""
    language = language_of(name)
    if rows is None:
        import datasets

        place = ("openai/openai_humaneval",) if name == "humaneval" else ("nuprl/MultiPL-E", f"humaneval-{language}")
        rows = list(datasets.load_dataset(*place, split="test"))
    stops = list(_STOPS) if name == "humaneval" else list(rows[0]["stop_tokens"])

    def passed(row: Row, answers: Sequence[str]) -> dict[str, float]:
        tests = f"{row['test']}\ncheck({row['entry_point']})" if name == "humaneval" else row["tests"]
        return {"pass@1": float(code_sandbox.passes(f"{row['prompt']}{answers[0]}\n{tests}", language))}

    return {
        "task": name,
        "output_type": "generate_until",
        "custom_dataset": _dataset(rows),
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{prompt}}",
        "generation_kwargs": {"until": stops, "max_gen_toks": _MAX_NEW_TOKENS, "do_sample": False},
        "num_fewshot": 0,
        "process_results": passed,
        "metric_list": [_mean("pass@1")],
    }


def language_of(task: str) -> str:
    """The language that programs of a task of CODE are in, by MultiPL-E's names."""
    return task.removeprefix(MULTIPLE) if task.startswith(MULTIPLE) else "py"


def _mean(metric: str) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}


def _dataset(rows: Sequence[Row]) -> Callable[..., Mapping[str, Any]]:
    def load(**_: object) -> Mapping[str, Any]:
        import datasets

        return {"test": datasets.Dataset.from_list(list(rows))}

    return load
