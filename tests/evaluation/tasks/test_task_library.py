"""Tasks through lm-evaluation-harness: the same scores as the library by itself gives, from local data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fusery.evaluation.tasks import library as task_library
from fusery.evaluation.tasks import sandbox as code_sandbox
from fusery.evaluation.tasks import suites as task_suites
from fusery.evaluation.tasks.scores import TaskScores
from fusery.run.steps.tasks import cut_remarks
from fusery.runtime.errors import ConfigError, Unavailable
from support.models.pico_models import pico_model

pytest.importorskip("lm_eval")

from fusery.evaluation.tasks.library import TaskRunner, TaskSettings, check_tasks, data_digest, load_task

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


def test_programs_are_run_only_where_the_run_allows_it(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"allow it with evaluation\.code_execution: true"):
        check_tasks(["code"], TaskSettings(data))


def test_local_names_are_known_without_asking_anybody(data: Path) -> None:
    assert check_tasks(["mine", "arc_easy", "mine"], TaskSettings(data)) == ("mine", "arc_easy")
    assert len(check_tasks(["commonsense", "reasoning"], TaskSettings())) == 32
    with pytest.raises(ConfigError, match="there is no folder"):
        check_tasks(["mine"], TaskSettings(data / "nowhere"))


def test_an_unknown_task_is_answered_with_the_nearest_names(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All of the library's tasks take some seconds.
    monkeypatch.setattr(task_library, "index", lambda **_: task_suites.index(is_whole=False))
    with pytest.raises(ConfigError, match=r"no task 'arc_esy'; did you mean 'arc_easy'"):
        check_tasks(["arc_esy"], TaskSettings(data))


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("boolq", "boolq.jsonl"),
        ("openbookqa", "openbook_qa.jsonl"),
        ("bbh_fewshot_navigate", "bbh/navigate.json"),
        ("multipl_e_cpp", "multipl_e/cpp.jsonl"),
    ],
)
def test_without_a_hub_a_task_without_data_says_what_to_do(
    task: str, file: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", no_network)
    with pytest.raises(Unavailable, match=f"task {task}: its data can't be had .*no network.*or put {file} into"):
        load_task(task, TaskSettings(data))


def test_the_space_before_an_answer_counts_for_nothing_and_a_wrong_answer_for_no_point(
    runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The targets are False and True.
    for answers, scores in (
        ([" False", " True"], (1.0, 1.0)),
        ([" True\n", "True"], (0.0, 1.0)),
        ([" no", ""], (0, 0)),
    ):
        monkeypatch.setattr(runner._model, "generate_until", lambda *_, answers=answers, **__: answers)
        assert runner.scores("bbh_fewshot_boolean_expressions").scores == scores


def test_prompts_that_are_longer_than_the_context_are_counted(tmp_path: Path, runner: TaskRunner, data: Path) -> None:
    long = "The quick brown fox. " * 200
    choice = [{"query": query, "choices": ["a fox", "a dog"], "gold": 0} for query in ("short", long, long)]
    exact = [{"query": query, "target": "fox"} for query in (long, "short")]
    for name, rows in (("choice", choice), ("exact", exact)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = TaskRunner(str(pico_model("llama")), None, TaskSettings(tmp_path))
    assert (found.scores("choice").cut, found.scores("exact").cut, runner.scores("mine").cut) == (2, 1, 0)
    # Three examples, and room for an answer, in a context of 256.
    assert runner.scores("bbh_fewshot_boolean_expressions").cut == 2


@pytest.mark.parametrize(
    ("kind", "asked"), [("loglikelihood", " dog"), ("generate_until", {"until": ["."], "max_gen_toks": 8})]
)
def test_a_prompt_counts_as_cut_just_where_the_library_cuts_it(
    kind: str, asked: Any, runner: TaskRunner, caplog: pytest.LogCaptureFixture
) -> None:
    from lm_eval.api.instance import Instance

    prompts = ["fox" * count for count in range(100, 260)]
    near = [prompt for prompt in prompts if 240 < len(runner._model.tok_encode(prompt)) < 262]
    counted = []
    for prompt in near:
        caplog.clear()
        getattr(runner._model, kind)([Instance(kind, {}, (prompt, asked), 0)], disable_tqdm=True)
        counted.append("runcat" in caplog.text)
        assert runner._is_cut(prompt, asked) == counted[-1]
    assert set(counted) == {True, False}


def test_a_remark_says_which_models_could_not_read_all_prompts() -> None:
    whole = TaskScores("t", "acc", 3, ("a", "b"), (1.0, 0.0))
    results = {"CLM": {"t": replace(whole, cut=1)}, "fused": {"t": whole, "u": replace(whole, cut=2)}}
    lost = "prompts were longer than the model reads and lost their beginning: "
    assert cut_remarks(results, ["t", "u", "v"]) == {
        "task t": f"{lost}CLM in 1 of 2 items",
        "task u": f"{lost}fused in 2 of 2 items",
    }


def test_a_program_in_another_language_is_read_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "name": "HumanEval_0_one",
        "language": "js",
        "prompt": "function one() {\n",
        "doctests": "transform",
        "original": "HumanEval_0.py",
        "prompt_terminology": "reworded",
        "tests": "console.assert(one() === 1);",
        "stop_tokens": ["\nfunction ", "\n}\n"],
    }
    (tmp_path / "multipl_e").mkdir()
    (tmp_path / "multipl_e" / "js.jsonl").write_text(json.dumps(row))
    settings, programs = TaskSettings(tmp_path, runs_code=True), []
    monkeypatch.setattr(code_sandbox, "passes", lambda *program: not programs.append(program))
    runner = TaskRunner(str(pico_model("llama")), None, settings)
    asked: list[Any] = []
    monkeypatch.setattr(
        runner._model, "generate_until", lambda requests, **_: asked.extend(requests) or ["  return 1;\n}"]
    )
    assert runner.scores("multipl_e_js").scores == (1.0,)
    assert programs == [("function one() {\n  return 1;\n}\nconsole.assert(one() === 1);", "js")]
    prompt, generation = asked[0].args
    assert (prompt, generation["until"]) == (row["prompt"], row["stop_tokens"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HumanEval", r"HumanEval\.jsonl is the data of the task humaneval; ask for humaneval"),
        ("winogrande", r"winogrande is a task of lm-evaluation-harness, .* winogrande\.jsonl .* another name"),
        ("qa", r"qa\.jsonl: row 1: no query, it has question, answer"),
    ],
)
def test_a_file_that_would_be_measured_as_something_else_is_refused(tmp_path: Path, name: str, message: str) -> None:
    choice = {"query": "a", "choices": ["b", "c"], "gold": 0}
    rows = {"HumanEval": choice, "winogrande": choice, "qa": {"question": "a", "answer": "b"}}
    for file, row in rows.items():
        (tmp_path / f"{file}.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=message):
        check_tasks([name], TaskSettings(tmp_path, runs_code=True))


def test_results_of_other_definitions_are_other_results(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data_digest("bbh_fewshot_boolean_expressions", TaskSettings(data))
    monkeypatch.setattr("fusery.evaluation.tasks.definitions.VERSION", 1)
    assert first != data_digest("bbh_fewshot_boolean_expressions", TaskSettings(data))


def test_other_data_or_another_limit_are_other_results(data: Path, tmp_path: Path) -> None:
    first = data_digest("mine", TaskSettings(data))
    (tmp_path / "mine.jsonl").write_text('{"query": "a", "target": "b"}')
    assert first != data_digest("mine", TaskSettings(tmp_path))
    assert first != data_digest("mine", TaskSettings(data, limit=1))
