"""Task data from a folder, for machines without a hub.

    FOLDER/arc_easy.jsonl arc_challenge.jsonl boolq.jsonl hellaswag.jsonl openbook_qa.jsonl     query, choices, gold
    FOLDER/bbh/NAME.json                                                             {"examples": [{input, target}]}
    FOLDER/HumanEval.jsonl, FOLDER/multipl_e/LANGUAGE.jsonl                               as their authors publish them
    FOLDER/NAME.jsonl     a task of your own: query, choices, gold (multiple choice), or query, target (exact answer)

Rows become those of the hub's data sets, so that the library's own task definitions, prompts included, run on them and
give the same scores.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusery.errors import ConfigError
from fusery.evaluation.task_suites import COT, FEWSHOT, MULTIPLE

Row = dict[str, Any]
_FILES = {"openbookqa": "openbook_qa.jsonl", "humaneval": "HumanEval.jsonl"}


def rows_of(folder: Path, task: str) -> list[Row] | None:
    """The rows of `task` in the form of its data set on the hub, or of one's own; None: the folder has none.

    Raises:
        ConfigError: the file can't be read, or a row lacks what the task needs; names file and row.
    """
    path = _path(folder, task)
    if path is None:
        return None
    rows = _read(path)
    if not rows:
        raise ConfigError(f"{path}: no rows; expected one JSON object a line")
    form = _FORMS.get(task, _as_it_is)
    for number, row in enumerate(rows, 1):
        try:
            rows[number - 1] = form(row)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(f"{path}: row {number}: {error!r}; it has the keys {', '.join(row)}") from error
    return rows


def own_tasks(folder: Path | None) -> list[str]:
    """Names of the tasks that stand as NAME.jsonl in `folder`."""
    return [] if folder is None else sorted(path.stem for path in folder.glob("*.jsonl"))


def _path(folder: Path, task: str) -> Path | None:
    for start in (COT, FEWSHOT):
        if task.startswith(start):
            return _existing(folder / "bbh" / f"{task.removeprefix(start)}.json")
    if task.startswith(MULTIPLE):
        return _existing(folder / "multipl_e" / f"{task.removeprefix(MULTIPLE)}.jsonl")
    return _existing(folder / _FILES.get(task, f"{task}.jsonl"))


def _existing(path: Path) -> Path | None:
    packed = path.with_name(f"{path.name}.gz")
    return next((file for file in (path, packed) if file.is_file()), None)


def _read(path: Path) -> list[Row]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        rows = json.loads(text)["examples"] if ".jsonl" not in path.name else _lines(text)
        return [dict(row.items()) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not task data: {error!r}; see docs/evaluation.md for the form") from error


def _lines(text: str) -> list[Row]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _gold(row: Mapping[str, Any]) -> int:
    gold, choices = row["gold"], row["choices"]
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise ValueError(f"gold is {gold!r}, expected the index of one of {len(choices)} choices")
    return gold


def _choices(row: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    return {"text": list(row["choices"]), "label": [chr(ord("A") + place) for place in range(len(row["choices"]))]}


def _arc(row: Mapping[str, Any]) -> Row:
    question = str(row["query"]).removeprefix("Question: ")
    return {"question": question, "choices": _choices(row), "answerKey": chr(ord("A") + _gold(row))}


def _openbook(row: Mapping[str, Any]) -> Row:
    return {"question_stem": str(row["query"]), "choices": _choices(row), "answerKey": chr(ord("A") + _gold(row))}


def _boolq(row: Mapping[str, Any]) -> Row:
    passage, _, question = str(row["query"]).removeprefix("Passage: ").rpartition("\nQuestion: ")
    if [str(choice) for choice in row["choices"]] != ["no", "yes"]:
        raise ValueError(f"choices are {row['choices']}, expected no and yes")
    return {"passage": passage, "question": question.removesuffix("?"), "label": _gold(row)}


def _hellaswag(row: Mapping[str, Any]) -> Row:
    # What the library's own preparation makes of the hub's rows.
    return {"query": str(row["query"]), "choices": list(row["choices"]), "label": str(_gold(row))}


def _as_it_is(row: Mapping[str, Any]) -> Row:
    return dict(row)


_FORMS: Mapping[str, Callable[[Mapping[str, Any]], Row]] = {
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "boolq": _boolq,
    "hellaswag": _hellaswag,
    "openbookqa": _openbook,
}
