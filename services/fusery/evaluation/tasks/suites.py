"""Which tasks a name means: suites of the paper's evaluation, and tasks and groups of lm-evaluation-harness.

Few-shot settings are the paper's: BBH with the three examples and the chain of thought of its authors, answers found
by exact match; common sense and code without examples. docs/evaluation.md has the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusery.runtime.errors import ConfigError, how_to_install
from fusery.runtime.settings import set_variables

BBH = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
MULTIPL_E = ("cpp", "js", "lua", "php", "pl", "rb", "sh")
"""Languages of MultiPL-E that can be run here with an interpreter, or g++."""

COT, FEWSHOT, MULTIPLE = "bbh_cot_fewshot_", "bbh_fewshot_", "multipl_e_"

SUITES: Mapping[str, tuple[str, ...]] = {
    "reasoning": tuple(f"{COT}{name}" for name in BBH),
    "commonsense": ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa"),
    "code": ("humaneval",),
    # The same questions with answers only: cheap, and possible for models too small to reason in words.
    "reasoning_direct": tuple(f"{FEWSHOT}{name}" for name in BBH),
    "multipl_e": tuple(f"{MULTIPLE}{language}" for language in MULTIPL_E),
}

_FOLDERS = ("arc", "bbh", "hellaswag", "openbookqa", "super_glue/boolq")
"""Where the library defines the tasks of these suites."""

CODE: tuple[str, ...] = (*SUITES["code"], *SUITES["multipl_e"])
"""Tasks whose answers are programs that are run."""

OF_THE_LIBRARY = frozenset(task for suite, tasks in SUITES.items() for task in tasks if task not in CODE)
"""Tasks of the suites that the library defines."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """The tasks that `names` mean, suites unfolded, each once, in order."""
    return tuple(dict.fromkeys(task for name in names for task in SUITES.get(name, (name,))))


def nearest(name: str, known: Sequence[str]) -> str:
    """'did you mean …?' with the nearest known names, or all suites."""
    found = difflib.get_close_matches(name, [*SUITES, *known], n=3, cutoff=0.5)
    if found:
        return f"did you mean {' or '.join(repr(near) for near in found)}?"
    return f"suites: {', '.join(SUITES)}; any task of lm-evaluation-harness goes by its name there"


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


@lru_cache(maxsize=2)
def index(is_whole: bool) -> Any:
    """The library's index of its tasks: of the suites' alone at once, of all 14,000 files in some seconds."""
    folder = Path(library().__file__).parent / "tasks"
    from lm_eval.tasks import TaskManager

    if is_whole:
        return TaskManager()
    return TaskManager(include_path=[folder / name for name in _FOLDERS], include_defaults=False)


def single_tasks(name: str) -> Sequence[str]:
    """The single tasks of one of the library's groups or tags; else the task itself.

    Raises:
        ConfigError: a group changes its tasks' settings, so that they can't be asked for by their names.
    """
    entry = index(is_whole=True).task_index[name]
    members = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
    if not isinstance(members, list):
        return [name]
    if not all(isinstance(member, str) for member in members):
        raise ConfigError(f"evaluation.tasks: the group {name} has tasks with settings of its own; name single tasks")
    return [single for member in members for single in single_tasks(member)]
