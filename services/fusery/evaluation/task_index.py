"""What lm-evaluation-harness has: its names, its groups unfolded, its definitions of tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusery.errors import ConfigError, how_to_install
from fusery.settings import set_variables

_NAME = re.compile(rb"""^["']?(?:task|group|tag)["']?:[ \t]*["']?([^"'\s#]+)["']?[ \t]*$""", re.MULTILINE)


def library() -> Any:
    """The module lm_eval.

    Raises:
        ConfigError: it is not installed.
    """
    # Its metrics package would fetch and run code of the hub for tasks that ask for it; those fail now.
    set_variables(HF_EVALUATE_OFFLINE="1")
    try:
        import lm_eval
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"evaluation.tasks: lm-evaluation-harness is not installed; {how_to_install('eval')}, or leave tasks out"
        ) from error
    return lm_eval


def names() -> list[str]:
    """Names of all tasks, groups and tags; the first call takes half a minute."""
    return list(manager().all_tasks)


def definition(task: str) -> Mapping[str, Any]:
    """The library's YAML of `task`, what it includes put in, functions as their places; empty where it has none."""
    return manager().task_index[task].cfg or {}


def unfolded(name: str) -> Sequence[str]:
    """The single tasks of one of the library's groups or tags; else the task itself.

    Raises:
        ConfigError: a group changes its tasks' settings, so that they can't be asked for by their names.
    """
    entry = manager().task_index[name]
    members = sorted(entry.tags) if entry.kind.name == "TAG" else definition(name).get("task")
    if not isinstance(members, list):
        return [name]
    if not all(isinstance(member, str) for member in members):
        raise ConfigError(f"evaluation.tasks: the group {name} has tasks with settings of its own; name single tasks")
    return [single for member in members for single in unfolded(member)]


@lru_cache(maxsize=1)
def manager() -> Any:
    """The library's index of its tasks; made in half a minute."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@lru_cache(maxsize=1)
def names_at_a_glance() -> frozenset[str]:
    """As `names`, but for the few that stand in lists or come from a program; takes a second or three."""
    files = (Path(library().__file__).parent / "tasks").rglob("*.yaml")
    return frozenset(name.decode() for file in files for name in _NAME.findall(file.read_bytes()))
