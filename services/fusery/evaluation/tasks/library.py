"""Tasks by lm-evaluation-harness: its definitions, prompts and scores; data from its hub or from a folder.

The library is the field's yardstick, so nothing of a task is written anew, with two exceptions: an answer's white
space (definitions.py), and tasks whose answers are programs, which the library would run in this process. Its
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

from fusery.core.definition import calls
from fusery.evaluation.tasks import definitions
from fusery.evaluation.tasks import sandbox as code_sandbox
from fusery.evaluation.tasks.data import data_file, own_tasks, rows_of, task_of_file
from fusery.evaluation.tasks.scores import TaskScores
from fusery.evaluation.tasks.suites import CODE, OF_THE_LIBRARY, expand, index, library, nearest, single_tasks
from fusery.runtime.errors import ConfigError, FuseryError, Unavailable

_BATCH_LOGITS = 1 << 25
_SEED = 1234
"""The library's own default."""
METRICS = ("pass@1", "acc_norm", "acc", "exact_match", "prompt_level_strict_acc", "em")
"""The first that a task has is taken; normalised accuracy is what the paper's figures are.

Tables, differences and suites take each item's score as 0 to 1, more is better, and a task's as the mean over items.
The library has metrics of other kinds too (a perplexity, a share of stereotypes, an F1 of all items together).
"""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What decides a task's scores besides the model. `data`: a folder with task data; None: the library's hub.

    `limit`: only the first so many items of each task. `runs_code`: programs that a model wrote may be run, in the
    sandbox.
    """

    data: Path | None = None
    limit: int | None = None
    runs_code: bool = False


def check_tasks(names: Sequence[str], settings: TaskSettings) -> tuple[str, ...]:
    """The single tasks that `names` mean, all of them known, with what they need; reads no model and asks no hub.

    Raises:
        ConfigError: a task is unknown (says the nearest names), its data is broken, it is scored by what can't be
            compared here, it has the name of a task of the library but not its data, or it needs what is not here.
    """
    if settings.data is not None and not settings.data.is_dir():
        raise ConfigError(f"evaluation.task_data: there is no folder {settings.data}")
    library()
    tasks = tuple(dict.fromkeys(single for task in expand(names) for single in _meant(task, settings)))
    for task in tasks:
        rows = None if settings.data is None else rows_of(settings.data, task)
        if task in CODE:
            if not settings.runs_code:
                raise ConfigError(
                    f"evaluation.tasks: {task} runs programs that the model writes; allow it with "
                    "evaluation.code_execution: true (they run shut in: docs/evaluation.md)"
                )
            code_sandbox.check_sandbox(definitions.language_of(task))
        elif task in OF_THE_LIBRARY:
            continue
        elif rows is None:
            check_definition(task, index(is_whole=True).task_index[task].cfg or {})
        elif task in index(is_whole=True).task_index:
            raise ConfigError(
                f"evaluation.tasks: {task} is a task of lm-evaluation-harness, with a prompt and examples that "
                f"{data_file(task)} in {settings.data} does not have; give the file, and the task, another name"
            )
    return tasks


def _meant(task: str, settings: TaskSettings) -> Sequence[str]:
    """The single tasks that one name means, which may be a group of the library."""
    own = own_tasks(settings.data)
    if task in (*OF_THE_LIBRARY, *CODE, *own):
        return [task]
    if suite := task_of_file(task):
        raise ConfigError(f"evaluation.tasks: {task}.jsonl is the data of the task {suite}; ask for {suite}")
    if task not in (known := index(is_whole=True).task_index):
        raise ConfigError(f"evaluation.tasks: no task {task!r}; {nearest(task, [*own, *known])}")
    return single_tasks(task)


def data_digest(task: str, settings: TaskSettings) -> str:
    """What decides the items of `task` and how they are scored: the folder's rows, or the hub; limit; versions."""
    rows = None if settings.data is None else rows_of(settings.data, task)
    # 1: the programs that are drawn for an item of code.
    decides = [rows, settings.limit, 1, library().__version__, definitions.VERSION]
    content = json.dumps(decides, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class TaskRunner:
    """A checkpoint, ready to be given tasks."""

    def __init__(self, model: str, revision: str | None, settings: TaskSettings) -> None:
        library()
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
        with calls(f"task {name}", "at one of its texts", through_others=True):
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
    library()
    from lm_eval.api.task import ConfigurableTask

    rows = None if settings.data is None else rows_of(settings.data, name)
    try:
        if name in CODE:
            task = ConfigurableTask(config=definitions.of_code(name, rows))
        elif name in OF_THE_LIBRARY:
            # A group of one: this is how the library takes changes to a task of its own.
            changed = {"task": name, **definitions.changes_to(name, rows)}
            task = index(is_whole=False).load({"group": "fusery", "task": [changed]})["tasks"][name]
        elif rows is not None:
            task = ConfigurableTask(config=definitions.of_ones_own(name, rows))
        else:
            task = index(is_whole=True).load(name)["tasks"][name]
    except FuseryError:
        raise
    except Exception as error:
        if rows is not None:
            raise ConfigError(f"task {name}: {settings.data}/{data_file(name)}: {error!r}") from error
        # A file for another task of the library would be a task of the user's own, with another prompt.
        own = f"; or put {data_file(name)} into evaluation.task_data" if name in (*OF_THE_LIBRARY, *CODE) else ""
        raise Unavailable(
            f"task {name}: its data can't be had from the hub: {error!r}{own} (docs/evaluation.md)"
        ) from error
    metric_of(name, task)
    return task


def _scores(name: str, metric: str, few_shot: int, samples: Sequence[Mapping[str, Any]], cut: int) -> TaskScores:
    """Of the library's notes on every item."""
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    for score in (sample[metric] for sample in ordered):
        # numpy's bool and numbers too.
        if not hasattr(score, "__float__") or not 0 <= float(score) <= 1:
            raise ConfigError(
                f"evaluation.tasks: {name} gives an item {score!r} as {metric}, expected 0 to 1; leave it out"
            )
    items = tuple(str(sample["doc_hash"])[:16] for sample in ordered)
    return TaskScores(name, metric, few_shot, items, tuple(float(sample[metric]) for sample in ordered), cut)


def metric_of(name: str, task: Any) -> str:
    """The metric of the library's task object.

    Raises:
        ConfigError: it has none that gives each item 0 to 1, more is better; or it would run code in this process.
    """
    from lm_eval.api.registry import get_aggregation

    better, mean = task.higher_is_better(), get_aggregation("mean")
    kinds = {metric: better.get(metric) and how is mean for metric, how in task.aggregation().items()}
    return _chosen(name, kinds, getattr(task, "UNSAFE_CODE", False))


def check_definition(name: str, definition: Mapping[str, Any]) -> None:
    """As `metric_of`, by the library's YAML: without data. A task that is a program is left to `metric_of`."""
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    if "class" in definition or "output_type" not in definition:
        return
    entries = definition.get("metric_list") or [
        {"metric": metric} for metric in DEFAULT_METRIC_REGISTRY[definition["output_type"]]
    ]
    # The library's own defaults for the metrics that are taken.
    kinds = {
        str(entry["metric"]): entry.get("higher_is_better", True) and entry.get("aggregation", "mean") == "mean"
        for entry in entries
    }
    _chosen(name, kinds, definition.get("unsafe_code", False))


def _chosen(name: str, kinds: Mapping[str, bool], runs_code: bool) -> str:
    """Of the metrics in `kinds`, the first that can be compared here: for each, whether it is such a mean."""
    if runs_code:
        raise ConfigError(f"evaluation.tasks: {name} would run code in this process; such tasks are not run")
    metric = next((metric for metric in METRICS if kinds.get(metric)), None)
    if metric is None:
        raise ConfigError(
            f"evaluation.tasks: {name} is scored by {', '.join(kinds) or 'nothing'}; expected one of "
            f"{', '.join(METRICS)}, where more is better and the task's score is the mean over items; leave it out"
        )
    return metric
