"""Definitions of tasks for lm-evaluation-harness: its own on rows of a folder, those of a user's tasks, and of code.

Its own are kept but for one thing. Its few-shot BBH with answers only compares the answer as the model gives it, with
the space after "A:", with a target that has none, and so gives every model 0: the space is taken away here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusery.evaluation import code_sandbox
from fusery.evaluation.task_index import library
from fusery.evaluation.task_rows import Row
from fusery.evaluation.task_suites import DEFINITIONS, FEWSHOT, MULTIPLE

VERSION = 2
"""Of what fusery itself decides in a task (these definitions, the form of rows, the metric); another: measured anew."""
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_MAX_NEW_TOKENS = 512
_STRIPPED = [{"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
_PLACES = frozenset(
    {"tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "fewshot_split"}
)


def of_suites(name: str, rows: Sequence[Row] | None) -> dict[str, Any]:
    """The library's definition of a task of DEFINITIONS, on `rows`; None: on the hub's data."""
    from lm_eval.tasks._yaml_loader import load_yaml

    definition: dict[str, Any] = load_yaml(Path(library().__file__).parent / "tasks" / DEFINITIONS[name])
    if name.startswith(FEWSHOT):
        definition["filter_list"] = _STRIPPED
    if rows is None:
        return definition
    kept = {key: value for key, value in definition.items() if key not in _PLACES}
    if "query" in rows[0]:
        # HellaSwag's, prepared already.
        kept.pop("process_docs", None)
    return {**kept, "task": name, "test_split": "test", "custom_dataset": _dataset(rows)}


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


def of_code(name: str, rows: Sequence[Row] | None, samples: int) -> dict[str, Any]:
    """HumanEval or MultiPL-E: the model continues a program, which is run with its tests in the sandbox."""
    rows = _code_rows(name) if rows is None else rows
    language = language_of(name)
    sampled = {"do_sample": True, "temperature": 0.2, "top_p": 0.95} if samples > 1 else {"do_sample": False}
    stops = list(_STOPS) if name == "humaneval" else list(rows[0]["stop_tokens"])

    def passed(row: Row, answers: Sequence[Any]) -> dict[str, float]:
        programs = answers[0] if isinstance(answers[0], list) else answers
        results = [code_sandbox.passes(_program(name, row, program), language) for program in programs]
        return {"pass@1": sum(results) / len(results)}

    return {
        "task": name,
        "output_type": "generate_until",
        "custom_dataset": _dataset(rows),
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{prompt}}",
        "generation_kwargs": {"until": stops, "max_gen_toks": _MAX_NEW_TOKENS, **sampled},
        "repeats": samples,
        "num_fewshot": 0,
        "process_results": passed,
        "metric_list": [_mean("pass@1")],
        "filter_list": [{"name": "programs", "filter": [{"function": "take_first_k", "k": samples}]}],
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


def _program(name: str, row: Row, answer: str) -> str:
    if name == "humaneval":
        return f"{row['prompt']}{answer}\n{row['test']}\ncheck({row['entry_point']})"
    return f"{row['prompt']}{answer}\n{row['tests']}"


def _code_rows(name: str) -> list[Row]:
    import datasets

    if name == "humaneval":
        return list(datasets.load_dataset("openai/openai_humaneval", split="test"))
    return list(datasets.load_dataset("nuprl/MultiPL-E", f"humaneval-{language_of(name)}", split="test"))
