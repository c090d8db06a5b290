"""Tasks by lm-evaluation-harness: its definitions, prompts and scores; data from its hub or from a folder.

The library is the field's yardstick, so nothing of a task is written anew, with one exception: tasks whose answers are
programs, which the library would run in this process. Its model class is given a checkpoint that is loaded as all
others are here (safetensors, no code of its own). Definitions of a user's tasks hold no code either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusery.errors import ConfigError, FuseryError, Unavailable, how_to_install
from fusery.evaluation import code_sandbox
from fusery.evaluation.task_data import Row, own_tasks, rows_of
from fusery.evaluation.task_scores import TaskScores
from fusery.evaluation.task_suites import CODE, DEFINITIONS, MULTIPLE, expand, nearest
from fusery.settings import set_variables

_METRICS = ("pass@1", "acc_norm", "acc", "exact_match")
"""What an item is scored by, the first that a task has; normalised accuracy is what the paper's figures are."""
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_MAX_NEW_TOKENS = 512
_BATCH_LOGITS = 1 << 25
_SEED = 1234
"""The library's own default."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What decides a task's scores besides the model. `data`: a folder with task data; None: the library's hub.

    `limit`: only the first so many items of each task. `code_samples`: 1 is greedy; more are drawn at temperature 0.2,
    as in the paper. `runs_code`: programs that a model wrote may be run, in the sandbox.
    """

    data: Path | None = None
    limit: int | None = None
    runs_code: bool = False
    code_samples: int = 1


def check_tasks(names: Sequence[str], settings: TaskSettings) -> tuple[str, ...]:
    """The tasks that `names` mean, all of them known, with what they need; reads no model and asks no hub.

    Raises:
        ConfigError: a task is unknown (says the nearest names), its data is broken, or it needs what is not here.
    """
    if settings.data is not None and not settings.data.is_dir():
        raise ConfigError(f"evaluation.task_data: there is no folder {settings.data}")
    _library()
    tasks = expand(names)
    own = own_tasks(settings.data)
    for task in tasks:
        if task in CODE:
            _check_code(task, settings)
        if settings.data is not None and rows_of(settings.data, task) is not None:
            continue
        if task not in (*DEFINITIONS, *CODE) and task not in (known := _names_of_library()):
            raise ConfigError(f"evaluation.tasks: no task {task!r}; {nearest(task, [*own, *known])}")
    return tuple(single for task in tasks for single in _unfolded(task, settings))


def _check_code(task: str, settings: TaskSettings) -> None:
    if not settings.runs_code:
        raise ConfigError(
            f"evaluation.tasks: {task} runs programs that the model writes; allow it with evaluation.code_execution: "
            "true (they run shut in: docs/evaluation.md)"
        )
    code_sandbox.check_sandbox(_language(task))


def data_digest(task: str, settings: TaskSettings) -> str:
    """What decides the items of `task`: the rows of the folder, or that they are the hub's, and the version."""
    rows = None if settings.data is None else rows_of(settings.data, task)
    samples = settings.code_samples if task in CODE else 1
    content = json.dumps([rows, settings.limit, samples, _library().__version__], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class TaskRunner:
    """A checkpoint, ready to be given tasks."""

    def __init__(self, model: str, revision: str | None, settings: TaskSettings) -> None:
        _library()
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoTokenizer

        from fusery.models.checkpoint import context_length, local_folder
        from fusery.models.loading import load_model

        network = load_model(model, revision, device=None)
        config = network.config.get_text_config(decoder=True)
        tokenizer = AutoTokenizer.from_pretrained(
            local_folder(model, revision), trust_remote_code=False, local_files_only=True
        )
        # The library keeps all logits of a batch.
        batch = max(1, min(32, _BATCH_LOGITS // (config.vocab_size * 64)))
        self._context = context_length(config)
        self._settings = settings
        # A context that no attention limits would be one huge window.
        longest = min(self._context, 8192)
        self._model = HFLM(network, backend="causal", tokenizer=tokenizer, batch_size=batch, max_length=longest)

    def scores(self, name: str) -> TaskScores:
        """The scores of one task, as `check_tasks` names it.

        Raises:
            Unavailable: its data can't be had from the hub.
            ConfigError: it gives no score for each item, or wants to run code of its own.
        """
        import torch
        from lm_eval.evaluator import evaluate

        task = load_task(name, self._settings)
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(f"evaluation.tasks: {name} would run code in this process; such tasks are not run")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        if task.get_config("output_type") == "generate_until":
            most = task.get_config("generation_kwargs").get("max_gen_toks", 256)
            # A short context must hold a question too.
            task.set_config("generation_kwargs", {"max_gen_toks": min(most, self._context // 2)}, update=True)
        task.set_fewshot_seed(seed=_SEED)
        torch.manual_seed(_SEED)
        loaded: Any = {"tasks": {name: task}, "groups": {}}
        results = evaluate(self._model, loaded, limit=self._settings.limit, bootstrap_iters=0, log_samples=True)
        return _scores(name, task.get_config("num_fewshot"), results["samples"][name])


def load_task(name: str, settings: TaskSettings) -> Any:
    """The library's task object of `name`, with data of the folder where it has some.

    Raises:
        Unavailable: its data can't be had from the hub.
    """
    _library()
    from lm_eval.api.task import ConfigurableTask

    rows = None if settings.data is None else rows_of(settings.data, name)
    try:
        if name in CODE:
            return ConfigurableTask(config=_code_task(name, rows, settings))
        if rows is not None:
            return ConfigurableTask(config=_on_rows(_definition(name, rows), name, rows))
        if name in DEFINITIONS:
            return ConfigurableTask(config=_definition(name, None))
        return _manager().load([name])["tasks"][name]
    except FuseryError:
        raise
    except Exception as error:
        where = f"; or put {name}.jsonl into evaluation.task_data (docs/evaluation.md)"
        raise Unavailable(f"task {name}: its data can't be had from the hub: {error!r}{where}") from error


def _definition(name: str, rows: Sequence[Row] | None) -> dict[str, Any]:
    """The library's definition of a known task, else one for the rows of a user's own."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if name in DEFINITIONS:
        definition: dict[str, Any] = load_yaml(Path(_library().__file__).parent / "tasks" / DEFINITIONS[name])
        return definition
    assert rows is not None, "only known tasks have no rows"
    shape: dict[str, Any]
    if "choices" in rows[0]:
        metrics = [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ]
        shape = {"output_type": "multiple_choice", "doc_to_target": "gold", "doc_to_choice": "choices"}
    else:
        metrics = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
        until = {"until": ["\n"], "do_sample": False, "max_gen_toks": 64}
        strip = [{"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
        shape = {
            "output_type": "generate_until",
            "doc_to_target": "target",
            "generation_kwargs": until,
            "filter_list": strip,
        }
    return {"doc_to_text": "query", "metric_list": metrics, **shape}


def _on_rows(definition: dict[str, Any], name: str, rows: Sequence[Row]) -> dict[str, Any]:
    apart = (
        "tag",
        "dataset_path",
        "dataset_name",
        "dataset_kwargs",
        "training_split",
        "validation_split",
        "fewshot_split",
    )
    kept = {key: value for key, value in definition.items() if key not in apart}
    # HellaSwag's rows of a folder are prepared already.
    kept.pop("process_docs", None)
    return {**kept, "task": name, "test_split": "test", "custom_dataset": _dataset(rows)}


def _dataset(rows: Sequence[Row]) -> Callable[..., Mapping[str, Any]]:
    def load(**_: object) -> Mapping[str, Any]:
        import datasets

        return {"test": datasets.Dataset.from_list(list(rows))}

    return load


def _code_task(name: str, rows: Sequence[Row] | None, settings: TaskSettings) -> dict[str, Any]:
    """HumanEval or MultiPL-E: the model continues a program, which is run with its tests in the sandbox."""
    rows = _code_rows(name) if rows is None else rows
    language, samples = _language(name), settings.code_samples
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
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [{"name": "programs", "filter": [{"function": "take_first_k", "k": samples}]}],
    }


def _program(name: str, row: Row, answer: str) -> str:
    if name == "humaneval":
        return f"{row['prompt']}{answer}\n{row['test']}\ncheck({row['entry_point']})"
    return f"{row['prompt']}{answer}\n{row['tests']}"


def _code_rows(name: str) -> list[Row]:
    import datasets

    if name == "humaneval":
        return list(datasets.load_dataset("openai/openai_humaneval", split="test"))
    return list(datasets.load_dataset("nuprl/MultiPL-E", f"humaneval-{_language(name)}", split="test"))


def _language(task: str) -> str:
    return task.removeprefix(MULTIPLE) if task.startswith(MULTIPLE) else "py"


def _unfolded(task: str, settings: TaskSettings) -> Sequence[str]:
    """The single tasks of one of the library's groups; else the task itself."""
    if task in (*DEFINITIONS, *CODE) or (settings.data is not None and rows_of(settings.data, task) is not None):
        return [task]
    entry = _manager().task_index[task]
    members = (entry.cfg or {}).get("task")
    if entry.kind.name == "TAG":
        members = sorted(entry.tags)
    if not isinstance(members, list):
        return [task]
    return [single for name in members if isinstance(name, str) for single in _unfolded(name, settings)]


def _names_of_library() -> list[str]:
    return list(_manager().all_tasks)


@lru_cache(maxsize=1)
def _manager() -> Any:
    """The library's index of its tasks; made in half a minute."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _library() -> Any:
    # Its metrics package would fetch and run code of the hub for tasks that ask for it; those fail now.
    set_variables(HF_EVALUATE_OFFLINE="1")
    try:
        import lm_eval
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"evaluation.tasks: lm-evaluation-harness is not installed; {how_to_install('eval')}, or leave tasks out"
        ) from error
    return lm_eval


def _scores(name: str, few_shot: int, samples: Sequence[Mapping[str, Any]]) -> TaskScores:
    """Of the library's notes on every item."""
    filters = [sample["filter"] for sample in samples]
    # Where a task reads answers in several ways, the last one is the most lenient.
    chosen = [sample for sample in samples if sample["filter"] == filters[-1]]
    metric = next((metric for metric in (*_METRICS, *chosen[0]["metrics"]) if metric in chosen[0]), None)
    if metric is None or not all(isinstance(sample[metric], int | float) for sample in chosen):
        raise ConfigError(
            f"evaluation.tasks: {name} gives no number for each item ({', '.join(chosen[0]['metrics'])}); leave it out"
        )
    ordered = sorted(chosen, key=lambda sample: int(sample["doc_id"]))
    scores = tuple(float(sample[metric]) for sample in ordered)
    return TaskScores(name, metric, few_shot, tuple(str(sample["doc_hash"])[:16] for sample in ordered), scores)
