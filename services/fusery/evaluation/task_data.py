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
import zlib
from pathlib import Path

from fusery.errors import ConfigError
from fusery.evaluation.task_rows import Row, hub_rows
from fusery.evaluation.task_suites import CODE, COT, DEFINITIONS, FEWSHOT, MULTIPLE
from fusery.json_text import parse_json

_FILES = {"openbookqa": "openbook_qa.jsonl", "humaneval": "HumanEval.jsonl"}


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
    return sorted(name for name in found if name not in (*DEFINITIONS, *CODE) and task_of_file(name) is None)


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
