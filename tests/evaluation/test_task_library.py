"""Tasks through lm-evaluation-harness: the same scores as the library by itself gives, from local data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fusery.errors import ConfigError, Unavailable
from fusery.evaluation import code_sandbox
from picomodels import pico_model

pytest.importorskip("lm_eval")

from fusery.evaluation.task_library import TaskRunner, TaskSettings, check_tasks, data_digest, load_task

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    choice = [
        {"query": f"Question: Who jumps over the lazy dog {place}?", "choices": ["the fox", "a cup"], "gold": place % 2}
        for place in range(6)
    ]
    exact = [{"query": f"The quick brown {place}", "target": "fox"} for place in range(3)]
    program = {"task_id": "0", "prompt": "def one():\n", "test": "def check(f):\n    pass", "entry_point": "one"}
    examples = [{"input": "not ( True ) is", "target": "False"}, {"input": "True is", "target": "True"}]
    files = {"arc_easy": choice, "mine": choice, "exact": exact, "HumanEval": [program]}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "bbh").mkdir()
    (folder / "bbh" / "boolean_expressions.json").write_text(json.dumps({"examples": examples}))
    return folder


@pytest.fixture(scope="module")
def runner(data: Path) -> TaskRunner:
    return TaskRunner(str(pico_model("llama")), None, TaskSettings(data))


def test_a_score_is_what_the_library_gives_by_itself(data: Path, runner: TaskRunner) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = pico_model("llama")
    ours = runner.scores("arc_easy")
    model = HFLM(AutoModelForCausalLM.from_pretrained(folder), tokenizer=AutoTokenizer.from_pretrained(folder))
    loaded: Any = {"tasks": {"arc_easy": load_task("arc_easy", TaskSettings(data))}, "groups": {}}
    theirs = evaluate(model, loaded, bootstrap_iters=0)["results"]["arc_easy"]
    assert ours.metric == "acc_norm"
    assert ours.mean == pytest.approx(theirs["acc_norm,none"])
    assert len(ours.scores) == 6
    assert set(ours.scores) <= {0.0, 1.0}


def test_the_library_s_own_prompts_are_used(data: Path) -> None:
    task = load_task("arc_easy", TaskSettings(data))
    row = task.test_docs()[0]
    assert task.doc_to_text(row) == "Question: Who jumps over the lazy dog 0?\nAnswer:"
    assert task.doc_to_choice(row) == ["the fox", "a cup"]
    reasoning = load_task("bbh_cot_fewshot_boolean_expressions", TaskSettings(data))
    assert reasoning.get_config("num_fewshot") == 3
    assert len(reasoning.test_docs()) == 2


def test_tasks_of_one_s_own_are_multiple_choice_or_exact_answers(runner: TaskRunner) -> None:
    assert runner.scores("mine").metric == "acc_norm"
    exact = runner.scores("exact")
    assert (exact.metric, len(exact.scores)) == ("exact_match", 3)


def test_a_limit_takes_the_first_items(data: Path, runner: TaskRunner) -> None:
    few = TaskRunner(str(pico_model("llama")), None, TaskSettings(data, limit=2)).scores("mine")
    assert few.items == runner.scores("mine").items[:2]
    assert few.scores == runner.scores("mine").scores[:2]


def test_programs_are_run_in_the_sandbox_with_their_tests(
    data: Path, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[str] = []
    monkeypatch.setattr(code_sandbox, "passes", lambda program, language: not programs.append(f"{language} {program}"))
    scores = runner.scores("humaneval")
    assert (scores.metric, scores.scores) == ("pass@1", (1.0,))
    (program,) = programs
    assert program.startswith("py def one():\n")
    assert program.endswith("def check(f):\n    pass\ncheck(one)")


def test_several_programs_are_drawn_and_their_share_that_passes_counts(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter([True, False, False, True])
    monkeypatch.setattr(code_sandbox, "passes", lambda *_: next(verdicts))
    settings = TaskSettings(data, runs_code=True, code_samples=4)
    assert TaskRunner(str(pico_model("llama")), None, settings).scores("humaneval").scores == (0.5,)


def test_programs_are_run_only_where_the_run_allows_it(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"allow it with evaluation\.code_execution: true"):
        check_tasks(["code"], TaskSettings(data))


def test_local_names_are_known_without_asking_anybody(data: Path) -> None:
    assert check_tasks(["mine", "arc_easy", "mine"], TaskSettings(data)) == ("mine", "arc_easy")
    assert len(check_tasks(["commonsense", "reasoning"], TaskSettings())) == 32
    with pytest.raises(ConfigError, match="there is no folder"):
        check_tasks(["mine"], TaskSettings(data / "nowhere"))


def test_an_unknown_task_is_answered_with_the_nearest_names(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The library's own list takes half a minute.
    monkeypatch.setattr("fusery.evaluation.task_library._names_of_library", lambda: ["arc_easy", "mmlu"])
    with pytest.raises(ConfigError, match=r"no task 'arc_esy'; did you mean 'arc_easy'"):
        check_tasks(["arc_esy"], TaskSettings(data))


def test_without_a_hub_a_task_without_data_says_what_to_do(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda **_: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(Unavailable, match=r"task boolq: its data can't be had .*no network.*or put boolq.jsonl into"):
        load_task("boolq", TaskSettings(data))


def test_other_data_another_limit_or_more_samples_are_other_results(data: Path, tmp_path: Path) -> None:
    first = data_digest("mine", TaskSettings(data))
    (tmp_path / "mine.jsonl").write_text('{"query": "a", "target": "b"}')
    assert first != data_digest("mine", TaskSettings(tmp_path))
    assert first != data_digest("mine", TaskSettings(data, limit=1))
    assert first == data_digest("mine", TaskSettings(data, code_samples=9))
    assert data_digest("humaneval", TaskSettings()) != data_digest("humaneval", TaskSettings(code_samples=9))
