"""Task data from a folder, for machines without a hub.

    FOLDER/arc_easy.jsonl arc_challenge.jsonl boolq.jsonl hellaswag.jsonl openbook_qa.jsonl     query, choices, gold
    FOLDER/bbh/NAME.json                                                             {"examples": [{input, target}]}
    FOLDER/HumanEval.jsonl, FOLDER/multipl_e/LANGUAGE.jsonl                               as their authors publish them
    FOLDER/NAME.jsonl     a task of your own: query, choices, gold (multiple choice), or query, target (exact answer)

Rows become those of the hub's data sets, so that the library's own task definitions, prompts included, run on them and
give the same scores. A template that finds no such key takes it as literal text: an unchecked row would not be an error
but a wrong score. So every row has all keys, of the right types, or is refused.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusery.evaluation.tasks.suites import CODE, COT, FEWSHOT, MULTIPLE, OF_THE_LIBRARY
from fusery.runtime.errors import ConfigError
from fusery.runtime.text.json import parse_json

Row = dict[str, Any]
_FILES = {"openbookqa": "openbook_qa.jsonl", "humaneval": "HumanEval.jsonl"}
_CHOICE = "query (text), choices (two texts or more) and gold (the right one's place, from 0)"
_EXACT = "query (text) and target (one line)"
_HELLASWAG = f"{_CHOICE}; or as published: ctx_a, ctx_b, activity_label (texts), endings (texts) and label (a place)"


def rows_of(folder: Path, task: str) -> list[Row] | None:
    """Returns the rows of `task` in the form of its data set on the hub, None if the folder has none.

    Raises:
        ConfigError: the file can't be read, or a row lacks what the task needs; names file, row and key.
    """
    whole = folder / data_file(task)
    path = next((file for file in (whole, whole.with_name(f"{whole.name}.gz")) if file.is_file()), None)
    if path is None:
        return None
    rows = _read(path)
    if not rows:
        raise ConfigError(f"{path}: no rows; expected one JSON object a line")
    try:
        return hub_rows(task, rows)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def data_file(task: str) -> Path:
    """Where in a folder of task data the rows of `task` stand, there or not; they may be packed: FILE.gz."""
    for start in (COT, FEWSHOT):
        if task.startswith(start):
            return Path("bbh", f"{task.removeprefix(start)}.json")
    if task.startswith(MULTIPLE):
        return Path("multipl_e", f"{task.removeprefix(MULTIPLE)}.jsonl")
    return Path(_FILES.get(task, f"{task}.jsonl"))


def own_tasks(folder: Path | None) -> list[str]:
    """Names of the user's own tasks, NAME.jsonl in `folder`: all but those of the suites."""
    if folder is None:
        return []
    found = {path.name.split(".jsonl")[0] for path in folder.glob("*.jsonl*") if path.suffix in (".jsonl", ".gz")}
    return sorted(name for name in found if name not in (*OF_THE_LIBRARY, *CODE) and task_of_file(name) is None)


def task_of_file(name: str) -> str | None:
    """The suites' task whose data stand in NAME.jsonl under another name than the task's: humaneval of HumanEval."""
    return next((task for task, file in _FILES.items() if file == f"{name}.jsonl" and task != name), None)


def _read(path: Path) -> list[Row]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        # Not splitlines: a string may hold other line ends as they are.
        lines = (parse_json(line) for line in text.split("\n") if line.strip())
        rows = lines if ".jsonl" in path.name else parse_json(text)["examples"]
        return [dict(row.items()) for row in rows]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not task data: {error!r}; see docs/evaluation.md for the form") from error


def hub_rows(task: str, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """`rows` of a file in the form of the data set of `task` on the hub; of a user's own task with its keys alone.

    >>> hub_rows("openbookqa", [{"query": "Wood", "choices": ["burns", "rusts"], "gold": 0}])
    [{'question_stem': 'Wood', 'choices': {'text': ['burns', 'rusts'], 'label': ['A', 'B']}, 'answerKey': 'A'}]

    Raises:
        ValueError: a row lacks a key, or has another type there; names row and key, and says what is expected.
    """
    form, expected = _form(task)
    found: list[Row] = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(form(row))
        except ValueError as error:
            raise ValueError(f"row {number}: {error}; expected {expected}") from error
        if found[-1].keys() != found[0].keys():
            first, this = (", ".join(keys) for keys in (found[0], found[-1]))
            raise ValueError(f"row {number} has {this}, row 1 has {first}; expected one form: {expected}")
    return found


def _form(task: str) -> tuple[Callable[[Mapping[str, Any]], Row], str]:
    """What makes a row of `task`, and what it expects, in words."""
    if task.startswith((COT, FEWSHOT)):
        return _texts("input", "target"), "input and target (texts)"
    if task == "humaneval":
        return _texts("prompt", "test", "entry_point"), "prompt, test and entry_point (texts)"
    if task.startswith(MULTIPLE):
        texts = _texts("prompt", "tests")
        return lambda row: {
            **texts(row),
            "stop_tokens": _list(row, "stop_tokens", 1),
        }, "prompt and tests (texts) and stop_tokens (texts)"
    return _FORMS.get(task, (_own, f"{_CHOICE}, or {_EXACT}"))


def _text(row: Mapping[str, Any], key: str) -> str:
    value = _value(row, key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}, expected text")
    return value


def _list(row: Mapping[str, Any], key: str, least: int) -> list[str]:
    value = _value(row, key)
    if not isinstance(value, list) or len(value) < least or not all(isinstance(text, str) and text for text in value):
        raise ValueError(f"{key} is {value!r}, expected a list of texts, {least} or more, none empty")
    return value


def _value(row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        raise ValueError(f"no {key}, it has {', '.join(row) or 'nothing'}")
    return row[key]


def _texts(*keys: str) -> Callable[[Mapping[str, Any]], Row]:
    return lambda row: {key: _text(row, key) for key in keys}


def _choice(row: Mapping[str, Any]) -> Row:
    found = {"query": _text(row, "query"), "choices": _list(row, "choices", 2), "gold": _value(row, "gold")}
    gold, most = found["gold"], len(found["choices"])
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < most:
        raise ValueError(f"gold is {gold!r}, expected the place of one of {most} choices, from 0")
    return found


def _own(row: Mapping[str, Any]) -> Row:
    if "choices" in row:
        return _choice(row)
    query = _text(row, "query")
    # Answers are compared without the white space around them, and end with their line.
    target = _text(row, "target").strip()
    if not target or "\n" in target:
        raise ValueError(f"target is {row['target']!r}, expected one line")
    return {"query": query, "target": target}


def _lettered(key: str) -> Callable[[Mapping[str, Any]], Row]:
    """Rows whose choices have letters, as ARC's; the question stands under `key`."""

    def form(row: Mapping[str, Any]) -> Row:
        found = _choice(row)
        letters = [chr(ord("A") + place) for place in range(len(found["choices"]))]
        question = found["query"].removeprefix("Question: ") if key == "question" else found["query"]
        choices = {"text": found["choices"], "label": letters}
        return {key: question, "choices": choices, "answerKey": letters[found["gold"]]}

    return form


def _boolq(row: Mapping[str, Any]) -> Row:
    found = _choice(row)
    passage, _, question = found["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
    if found["choices"] != ["no", "yes"]:
        raise ValueError(f"choices are {row['choices']}, expected no and yes")
    return {"passage": passage, "question": question.removesuffix("?"), "label": found["gold"]}


def _hellaswag(row: Mapping[str, Any]) -> Row:
    if "ctx_a" not in row:
        # What the library's own preparation makes of the hub's rows.
        found = _choice(row)
        return {"query": found["query"], "choices": found["choices"], "label": str(found["gold"])}
    endings = _list(row, "endings", 2)
    label = str(_value(row, "label"))
    if label not in map(str, range(len(endings))):
        raise ValueError(f"label is {row['label']!r}, expected the place of one of {len(endings)} endings, from 0")
    return {**_texts("ctx_a", "ctx_b", "activity_label")(row), "endings": endings, "label": label}


_FORMS: Mapping[str, tuple[Callable[[Mapping[str, Any]], Row], str]] = {
    "arc_easy": (_lettered("question"), _CHOICE),
    "arc_challenge": (_lettered("question"), _CHOICE),
    "boolq": (_boolq, _CHOICE),
    "hellaswag": (_hellaswag, _HELLASWAG),
    "openbookqa": (_lettered("question_stem"), _CHOICE),
}
