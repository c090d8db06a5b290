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

from fusery.errors import ConfigError
from fusery.evaluation.task_suites import CODE, COT, FEWSHOT, MULTIPLE, OF_THE_LIBRARY
from fusery.json_text import parse_json

Row = dict[str, Any]
_FILES = {"openbookqa": "openbook_qa.jsonl", "humaneval": "HumanEval.jsonl"}
_CHOICE = "query (text), choices (two texts or more) and gold (the right one's place, from 0)"
_EXACT = "query (text) and target (one line)"
_HELLASWAG = f"{_CHOICE}; or as published: ctx_a, ctx_b, activity_label (texts), endings (texts) and label (a place)"


def rows_of(folder: Path, task: str) -> list[Row] | None:
    """The rows of `task` in the form of its data set on the hub, or of one's own; None: the folder has none.

    Raises:
        ConfigError: the file can't be read, or a row lacks what the task needs; names file, row and key.
    """
    path = _existing(folder / data_file(task))
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
    """Names of the tasks of one's own that stand as NAME.jsonl in `folder`: all but those of the suites."""
    if folder is None:
        return []
    found = {path.name.split(".jsonl")[0] for path in folder.glob("*.jsonl*") if path.suffix in (".jsonl", ".gz")}
    return sorted(name for name in found if name not in (*OF_THE_LIBRARY, *CODE) and task_of_file(name) is None)


def task_of_file(name: str) -> str | None:
    """The suites' task whose data stand in NAME.jsonl under another name than the task's: humaneval of HumanEval."""
    return next((task for task, file in _FILES.items() if file == f"{name}.jsonl" and task != name), None)


def _existing(path: Path) -> Path | None:
    packed = path.with_name(f"{path.name}.gz")
    return next((file for file in (path, packed) if file.is_file()), None)


def _read(path: Path) -> list[Row]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        rows = parse_json(text)["examples"] if ".jsonl" not in path.name else _lines(text)
        return [dict(row.items()) for row in rows]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not task data: {error!r}; see docs/evaluation.md for the form") from error


def _lines(text: str) -> list[Row]:
    # Not splitlines: a string may hold other line ends as they are.
    return [parse_json(line) for line in text.split("\n") if line.strip()]


def hub_rows(task: str, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """`rows` of a file in the form of the data set of `task` on the hub; of a task of one's own with its keys alone.

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
        return _multipl_e, "prompt and tests (texts) and stop_tokens (texts)"
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


def _gold(row: Mapping[str, Any]) -> int:
    gold, choices = _value(row, "gold"), _list(row, "choices", 2)
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise ValueError(f"gold is {gold!r}, expected the place of one of {len(choices)} choices, from 0")
    return gold


def _choices(row: Mapping[str, Any]) -> Row:
    choices = _list(row, "choices", 2)
    return {"text": choices, "label": [chr(ord("A") + place) for place in range(len(choices))]}


def _texts(*keys: str) -> Callable[[Mapping[str, Any]], Row]:
    return lambda row: {key: _text(row, key) for key in keys}


def _own(row: Mapping[str, Any]) -> Row:
    query = _text(row, "query")
    if "choices" in row:
        return {"query": query, "choices": _list(row, "choices", 2), "gold": _gold(row)}
    # Answers are compared without the white space around them, and end with their line.
    target = _text(row, "target").strip()
    if not target or "\n" in target:
        raise ValueError(f"target is {row['target']!r}, expected one line")
    return {"query": query, "target": target}


def _arc(row: Mapping[str, Any]) -> Row:
    question = _text(row, "query").removeprefix("Question: ")
    return {"question": question, "choices": _choices(row), "answerKey": chr(ord("A") + _gold(row))}


def _openbook(row: Mapping[str, Any]) -> Row:
    return {"question_stem": _text(row, "query"), "choices": _choices(row), "answerKey": chr(ord("A") + _gold(row))}


def _boolq(row: Mapping[str, Any]) -> Row:
    passage, _, question = _text(row, "query").removeprefix("Passage: ").rpartition("\nQuestion: ")
    if _list(row, "choices", 2) != ["no", "yes"]:
        raise ValueError(f"choices are {row['choices']}, expected no and yes")
    return {"passage": passage, "question": question.removesuffix("?"), "label": _gold(row)}


def _hellaswag(row: Mapping[str, Any]) -> Row:
    if "ctx_a" not in row:
        # What the library's own preparation makes of the hub's rows.
        return {"query": _text(row, "query"), "choices": _list(row, "choices", 2), "label": str(_gold(row))}
    endings = _list(row, "endings", 2)
    label = str(_value(row, "label"))
    if label not in map(str, range(len(endings))):
        raise ValueError(f"label is {row['label']!r}, expected the place of one of {len(endings)} endings, from 0")
    return {**_texts("ctx_a", "ctx_b", "activity_label")(row), "endings": endings, "label": label}


def _multipl_e(row: Mapping[str, Any]) -> Row:
    return {**_texts("prompt", "tests")(row), "stop_tokens": _list(row, "stop_tokens", 1)}


_FORMS: Mapping[str, tuple[Callable[[Mapping[str, Any]], Row], str]] = {
    "arc_easy": (_arc, _CHOICE),
    "arc_challenge": (_arc, _CHOICE),
    "boolq": (_boolq, _CHOICE),
    "hellaswag": (_hellaswag, _HELLASWAG),
    "openbookqa": (_openbook, _CHOICE),
}
