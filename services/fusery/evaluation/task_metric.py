"""By which metric a task is scored. Decided before a model runs, for it is the task's matter and no model's.

Tables, differences and suites take each item's score as 0 to 1, more is better, and a task's as the mean over items.
The library has metrics of other kinds (a perplexity, a share of stereotypes, an F1 of all items together); shown
among these they would be read wrongly, so only metrics known to be of this kind are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusery.errors import ConfigError

METRICS = ("pass@1", "acc_norm", "acc", "exact_match", "prompt_level_strict_acc", "em")
"""The first that a task has is taken; normalised accuracy is what the paper's figures are."""


def metric_of(name: str, task: Any) -> str:
    """The metric of the library's task object.

    Raises:
        ConfigError: it has none that gives each item 0 to 1, more is better; or it would run code in this process.
    """
    from lm_eval.api.registry import get_aggregation

    _refuse_code(name, getattr(task, "UNSAFE_CODE", False))
    better, mean = task.higher_is_better(), get_aggregation("mean")
    return _chosen(name, {metric: better.get(metric) and how is mean for metric, how in task.aggregation().items()})


def check_definition(name: str, definition: Mapping[str, Any]) -> None:
    """As `metric_of`, by the library's YAML: without data. A task that is a program is left to `metric_of`.

    Raises:
        ConfigError: as `metric_of`.
    """
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    if "class" in definition or "output_type" not in definition:
        return
    _refuse_code(name, definition.get("unsafe_code", False))
    entries = definition.get("metric_list") or [
        {"metric": metric} for metric in DEFAULT_METRIC_REGISTRY[definition["output_type"]]
    ]
    # The library's own defaults for the metrics that are taken.
    kinds = {
        str(entry["metric"]): entry.get("higher_is_better", True) and entry.get("aggregation", "mean") == "mean"
        for entry in entries
    }
    _chosen(name, kinds)


def _refuse_code(name: str, unsafe: bool) -> None:
    if unsafe:
        raise ConfigError(f"evaluation.tasks: {name} would run code in this process; such tasks are not run")


def _chosen(name: str, kinds: Mapping[str, bool]) -> str:
    metric = next((metric for metric in METRICS if kinds.get(metric)), None)
    if metric is None:
        raise ConfigError(
            f"evaluation.tasks: {name} is scored by {', '.join(kinds) or 'nothing'}; expected one of "
            f"{', '.join(METRICS)}, where more is better and the task's score is the mean over items; leave it out"
        )
    return metric
