"""Tasks by lm-evaluation-harness: its definitions, prompts and scores; data from its hub or from a folder.

The library is the field's yardstick, so nothing of a task is written anew, with two exceptions: an answer's white
space (task_definitions.py), and tasks whose answers are programs, which the library would run in this process. Its
model class is given a checkpoint that is loaded as all others are here (safetensors, no code of its own). Definitions
of a user's tasks hold no code either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.core.library import panics
from fusery.errors import ConfigError, FuseryError, Unavailable
from fusery.evaluation import code_sandbox, task_definitions, task_index
from fusery.evaluation.task_data import data_file, own_tasks, rows_of, task_of_file
from fusery.evaluation.task_metric import check_definition, metric_of
from fusery.evaluation.task_scores import TaskScores
from fusery.evaluation.task_suites import CODE, DEFINITIONS, expand, nearest

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
    """The single tasks that `names` mean, all of them known, with what they need; reads no model and asks no hub.

    Raises:
        ConfigError: a task is unknown (says the nearest names), its data is broken, it is scored by what can't be
            compared here, it has the name of a task of the library but not its data, or it needs what is not here.
    """
    if settings.data is not None and not settings.data.is_dir():
        raise ConfigError(f"evaluation.task_data: there is no folder {settings.data}")
    task_index.library()
    tasks = tuple(dict.fromkeys(single for task in expand(names) for single in _single_tasks(task, settings)))
    for task in tasks:
        rows = None if settings.data is None else rows_of(settings.data, task)
        if task in CODE:
            _check_code(task, settings)
        elif task in DEFINITIONS:
            continue
        elif rows is None:
            check_definition(task, task_index.definition(task))
        elif task in task_index.names_at_a_glance():
            raise ConfigError(
                f"evaluation.tasks: {task} is a task of lm-evaluation-harness, with a prompt and examples that "
                f"{data_file(task)} in {settings.data} does not have; give the file, and the task, another name"
            )
    return tasks


def _single_tasks(task: str, settings: TaskSettings) -> Sequence[str]:
    own = own_tasks(settings.data)
    if task in (*DEFINITIONS, *CODE, *own):
        return [task]
    if suite := task_of_file(task):
        raise ConfigError(f"evaluation.tasks: {task}.jsonl is the data of the task {suite}; ask for {suite}")
    if task not in (known := task_index.names()):
        raise ConfigError(f"evaluation.tasks: no task {task!r}; {nearest(task, [*own, *known])}")
    return task_index.unfolded(task)


def _check_code(task: str, settings: TaskSettings) -> None:
    if not settings.runs_code:
        raise ConfigError(
            f"evaluation.tasks: {task} runs programs that the model writes; allow it with evaluation.code_execution: "
            "true (they run shut in: docs/evaluation.md)"
        )
    code_sandbox.check_sandbox(task_definitions.language_of(task))


def data_digest(task: str, settings: TaskSettings) -> str:
    """What decides the items of `task` and how they are scored: the folder's rows, or the hub; limit; versions."""
    rows = None if settings.data is None else rows_of(settings.data, task)
    samples = settings.code_samples if task in CODE else 1
    versions = [task_index.library().__version__, task_definitions.VERSION]
    content = json.dumps([rows, settings.limit, samples, *versions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class TaskRunner:
    """A checkpoint, ready to be given tasks."""

    def __init__(self, model: str, revision: str | None, settings: TaskSettings) -> None:
        task_index.library()
        from lm_eval.models.huggingface import HFLM

        from fusery.models.checkpoint import context_length, local_folder
        from fusery.models.loading import load_model
        from fusery.models.tokenizer import transformers_tokenizer

        network = load_model(model, revision, device=None)
        config = network.config.get_text_config(decoder=True)
        tokenizer = transformers_tokenizer(local_folder(model, revision), model)
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
            ConfigError: as `load_task`; or an item has no score from 0 to 1.
        """
        import torch
        from lm_eval.evaluator import evaluate

        task = load_task(name, self._settings)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        if task.get_config("output_type") == "generate_until":
            most = task.get_config("generation_kwargs").get("max_gen_toks", 256)
            # A short context must hold a question too.
            task.set_config("generation_kwargs", {"max_gen_toks": min(most, self._context // 2)}, update=True)
        task.set_fewshot_seed(seed=_SEED)
        torch.manual_seed(_SEED)
        loaded: Any = {"tasks": {name: task}, "groups": {}}
        with panics(f"task {name}", "at one of its texts"):
            results = evaluate(self._model, loaded, limit=self._settings.limit, bootstrap_iters=0, log_samples=True)
        noted = results["samples"][name]
        # Where a task reads answers in several ways, the last one is the most lenient.
        chosen = [sample for sample in noted if sample["filter"] == noted[-1]["filter"]]
        cut = sum(any(self._is_cut(*request) for request in sample["arguments"]) for sample in chosen)
        return _scores(name, metric_of(name, task), task.get_config("num_fewshot"), chosen, cut)

    def _is_cut(self, prompt: str, asked: Any) -> bool:
        """Whether the library cuts `prompt` to make room for `asked`: an answer, or settings of one to generate."""
        if isinstance(asked, Mapping):
            read, room = self._model.tok_encode(prompt), asked.get("max_gen_toks", self._model.max_gen_toks)
            return bool(len(read) > self._model.max_length - room)
        if not prompt:
            return False
        before, answer = self._model._encode_pair(prompt, asked)
        # The answer's last token is predicted and not read.
        return bool(len(before) + len(answer) - 1 > self._model.max_length)


def load_task(name: str, settings: TaskSettings) -> Any:
    """The library's task object of `name`, with data of the folder where it has some.

    Raises:
        Unavailable: its data can't be had from the hub.
        ConfigError: its data is broken, it is scored by what can't be compared, or it would run code in this process.
    """
    task_index.library()
    from lm_eval.api.task import ConfigurableTask

    rows = None if settings.data is None else rows_of(settings.data, name)
    try:
        if name in CODE:
            task = ConfigurableTask(config=task_definitions.of_code(name, rows, settings.code_samples))
        elif name in DEFINITIONS:
            task = ConfigurableTask(config=task_definitions.of_suites(name, rows))
        elif rows is not None:
            task = ConfigurableTask(config=task_definitions.of_ones_own(name, rows))
        else:
            task = task_index.manager().load([name])["tasks"][name]
    except FuseryError:
        raise
    except Exception as error:
        if rows is not None:
            raise ConfigError(f"task {name}: {settings.data}/{data_file(name)}: {error!r}") from error
        # A file for another task of the library would be a task of one's own, with another prompt.
        own = f"; or put {data_file(name)} into evaluation.task_data" if name in (*DEFINITIONS, *CODE) else ""
        raise Unavailable(
            f"task {name}: its data can't be had from the hub: {error!r}{own} (docs/evaluation.md)"
        ) from error
    metric_of(name, task)
    return task


def _scores(name: str, metric: str, few_shot: int, samples: Sequence[Mapping[str, Any]], cut: int) -> TaskScores:
    """Of the library's notes on every item."""
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    wrong = [sample[metric] for sample in ordered if not _is_share(sample[metric])]
    if wrong:
        raise ConfigError(
            f"evaluation.tasks: {name} gives an item {wrong[0]!r} as {metric}, expected 0 to 1; leave it out"
        )
    items = tuple(str(sample["doc_hash"])[:16] for sample in ordered)
    return TaskScores(name, metric, few_shot, items, tuple(float(sample[metric]) for sample in ordered), cut)


def _is_share(score: object) -> bool:
    # numpy's bool and numbers too.
    return hasattr(score, "__float__") and 0 <= float(score) <= 1
