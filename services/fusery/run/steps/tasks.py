"""Task suites of a run: which models get which tasks, and their results, each kept under what it was made from."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusery.evaluation.tasks.library import TaskRunner, TaskSettings, data_digest, load_task
from fusery.evaluation.tasks.library import check_tasks as check_names
from fusery.evaluation.tasks.scores import TaskScores
from fusery.hops.names import digest
from fusery.run.open_run import Run
from fusery.run.steps.baselines import check_domains
from fusery.runtime.errors import Unavailable
from fusery.runtime.text.json import parse_json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskModel:
    """A checkpoint that tasks are given to. `made_from`: what decides its weights."""

    model: str
    revision: str | None
    made_from: str


Results = dict[str, dict[str, TaskScores]]
"""By the model's name in the report, then by task."""


def check_tasks(run: Run) -> tuple[str, ...]:
    """The single tasks that the run asks for, none where it asks for none; and its text can be measured.

    Raises:
        ConfigError: a task is unknown, or needs what is not here.
        CorpusError: a domain of the training text has no held-out text.
    """
    check_domains(run)
    if not run.config.evaluation.tasks:
        return ()
    return check_names(run.config.evaluation.tasks, _settings(run))


def give_tasks(run: Run, models: Mapping[str, TaskModel], tasks: Sequence[str]) -> tuple[Results, dict[str, str]]:
    """Scores of all models in all tasks; what is in the store is done. And remarks on tasks: no data, prompts cut."""
    if not tasks:
        return {}, {}
    settings = _settings(run)
    names = {}
    for task in tasks:
        decides_task = data_digest(task, settings)
        for model, place in models.items():
            slug = re.sub(r"[^a-z0-9_-]+", "-", f"{model}-{task}".lower())
            parts = [place.made_from, task, decides_task]
            names[model, task] = f"{run.name}/tasks/{slug}-{digest(parts)[:8]}.json"
    remarks: dict[str, str] = {}
    for task in tasks:
        if any(run.store.find(names[model, task]) is None for model in models):
            try:
                load_task(task, settings)
            except Unavailable as error:
                remarks[f"task {task}"] = f"not measured: {error}"
    results: Results = {}
    for model, place in models.items():
        runner = None
        for task in (task for task in tasks if f"task {task}" not in remarks):
            name = names[model, task]
            if run.store.find(name) is None:
                runner = runner or TaskRunner(place.model, place.revision, settings)
                log.info("%s: %s", model, task)
                scores = runner.scores(task)
                run.store.publish(name, json.dumps(scores.to_json(), sort_keys=True).encode())
            found = TaskScores.from_json(parse_json(run.store.read(name)))
            results.setdefault(model, {})[task] = found
    return results, remarks | cut_remarks(results, tasks)


def cut_remarks(results: Results, tasks: Sequence[str]) -> dict[str, str]:
    """Of each task, which models could not read all of its prompts: their few-shot setting is so in name only."""
    remarks = {}
    for task in tasks:
        cut = {model: found[task] for model, found in results.items() if task in found and found[task].cut}
        if cut:
            counts = ", ".join(f"{model} in {scores.cut} of {len(scores.items)} items" for model, scores in cut.items())
            remarks[f"task {task}"] = f"prompts were longer than the model reads and lost their beginning: {counts}"
    return remarks


def _settings(run: Run) -> TaskSettings:
    spec = run.config.evaluation
    data = None if spec.task_data is None else Path(run.file.resolve(spec.task_data))
    return TaskSettings(data, spec.task_limit, spec.code_execution)
