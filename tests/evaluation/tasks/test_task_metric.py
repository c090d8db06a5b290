"""Which tasks of the library are taken: those whose score of each item is 0 to 1, more is better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from fusery.evaluation.tasks import library as task_library
from fusery.evaluation.tasks import suites as task_suites
from fusery.evaluation.tasks.library import TaskSettings, check_definition, check_tasks, load_task, metric_of
from fusery.evaluation.tasks.suites import OF_THE_LIBRARY
from fusery.runtime.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
TASKS = Path(task_suites.library().__file__).parent / "tasks"


def in_the_library(path: str) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    found: dict[str, Any] = load_yaml(TASKS / path, resolve_func=False)
    return found


@pytest.fixture
def small_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library's own index, of one folder of tasks: all of them take some seconds."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "library"
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"text": "The quick", "answer": " fox"}))
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "doc_to_text": "text",
        "doc_to_target": "answer",
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    definitions: dict[str, dict[str, Any]] = {
        "tight": {"task": "tight", "output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}]},
        "last": {"task": "last", "output_type": "loglikelihood", "metric_list": [{"metric": "acc", **mean}]},
        "both": {"group": "both", "task": ["last", "tight"]},
        "changed": {"group": "changed", "task": [{"task": "last", "num_fewshot": 3}]},
    }
    for name, definition in definitions.items():
        content = definition if "group" in definition else task | definition
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    for module in (task_library, task_suites):
        monkeypatch.setattr(module, "index", lambda **_: manager)
    return folder


@pytest.mark.parametrize(
    "path", ["winogrande/default.yaml", "gsm8k/gsm8k.yaml", "ifeval/ifeval.yaml", "drop/default.yaml"]
)
def test_tasks_with_a_share_for_each_item_are_taken(path: str) -> None:
    check_definition("one", in_the_library(path))


@pytest.mark.parametrize("task", sorted(OF_THE_LIBRARY))
def test_all_tasks_of_the_suites_are_taken(task: str) -> None:
    check_definition(task, task_suites.index(is_whole=False).task_index[task].cfg)


@pytest.mark.parametrize(
    ("path", "metrics"),
    [
        ("crows_pairs/crows_pairs_english.yaml", "likelihood_diff, pct_stereotype"),
        ("wikitext/wikitext.yaml", "word_perplexity, byte_perplexity, bits_per_byte"),
    ],
)
def test_tasks_where_less_is_better_or_items_have_no_score_are_refused(path: str, metrics: str) -> None:
    with pytest.raises(ConfigError, match=f"one is scored by {metrics}; expected one of pass@1, acc_norm, acc, exact"):
        check_definition("one", in_the_library(path))


def test_an_accuracy_that_is_no_mean_or_better_when_less_is_refused() -> None:
    for kind in ({"aggregation": "median"}, {"higher_is_better": False}):
        definition = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc", **kind}]}
        with pytest.raises(ConfigError, match="one is scored by acc; expected"):
            check_definition("one", definition)
    check_definition("one", {"output_type": "multiple_choice"})


def test_tasks_that_run_code_here_are_refused() -> None:
    with pytest.raises(ConfigError, match="one would run code in this process"):
        check_definition("one", {"output_type": "generate_until", "unsafe_code": True})


def test_a_task_is_refused_before_any_data_is_asked_for(small_library: Path) -> None:
    (small_library / "rows.jsonl").unlink()
    assert check_tasks(["last"], TaskSettings()) == ("last",)
    for name in ("tight", "both"):
        with pytest.raises(ConfigError, match="tight is scored by perplexity"):
            check_tasks([name], TaskSettings())


def test_the_task_itself_is_asked_too(small_library: Path) -> None:
    assert metric_of("last", load_task("last", TaskSettings())) == "acc"
    with pytest.raises(ConfigError, match="tight is scored by perplexity"):
        load_task("tight", TaskSettings())


def test_a_group_that_changes_its_tasks_is_refused(small_library: Path) -> None:
    with pytest.raises(ConfigError, match="the group changed has tasks with settings of its own"):
        check_tasks(["changed"], TaskSettings())
    with pytest.raises(ConfigError, match="no task 'lst'; did you mean 'last'"):
        check_tasks(["lst"], TaskSettings())


def test_missing_data_of_another_task_of_the_library_has_no_place_in_the_folder(small_library: Path) -> None:
    from fusery.runtime.errors import Unavailable

    (small_library / "rows.jsonl").unlink()
    with pytest.raises(Unavailable, match="task last: its data can't be had") as caught:
        load_task("last", TaskSettings())
    assert "into evaluation.task_data" not in str(caught.value)
