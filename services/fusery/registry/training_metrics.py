"""The trainer's metrics file: JSON lines, one a step, `step` and any numbers by name.

A trainer that was killed may leave a torn last line, which is left out, and one that took up an older
checkpoint may repeat steps, of which the later line counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.runtime.errors import Corrupt
from fusery.runtime.text.json import NotJson, parse_json


@dataclass(frozen=True, slots=True)
class Step:
    """The numbers of one optimizer step, by name. `time_s`: the Unix time at which it ended, as far as known."""

    step: int
    time_s: float
    values: Mapping[str, float]


def read_steps(path: Path) -> list[Step]:
    """The steps in `path`, ascending, each once; none if there is no file. What is no number is left out.

    A line without `time_s` has the time of the file's last change, less the training time since.

    Raises:
        Corrupt: a line that is not the last is no JSON object.
    """
    numbers_of: dict[int, dict[str, float]] = {}
    for line in read_lines(path):
        numbers = _numbers(line)
        if "step" in numbers:
            numbers_of[int(numbers.pop("step"))] = numbers
    if not numbers_of:
        return []
    end_s = path.stat().st_mtime
    total_s = max((numbers.get("elapsed_s", 0.0) for numbers in numbers_of.values()), default=0.0)
    return [
        Step(step, numbers.pop("time_s", end_s - (total_s - numbers.get("elapsed_s", total_s))), numbers)
        for step, numbers in sorted(numbers_of.items())
    ]


def read_lines(path: Path, *, until_damage: bool = False) -> list[dict[str, Any]]:
    """The lines of the file in order, none if there is no file. `until_damage`: those before a damaged one, if any.

    Raises:
        Corrupt: a line that is not the last is no JSON object.
    """
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found: list[dict[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            value = parse_json(text)
            if not isinstance(value, dict):
                raise NotJson(f"expected an object, got {type(value).__name__}")
            found.append(value)
        except NotJson as error:
            if number == len(texts) or until_damage:
                break
            raise Corrupt(f"{path}, line {number}: expected a JSON object, got {text[:40]!r}; train again") from error
    return found


def series(steps: list[Step], name: str) -> tuple[list[int], list[float]]:
    """Step numbers and values of `name`, where a step has it."""
    points = [(step.step, step.values[name]) for step in steps if name in step.values]
    return [step for step, _ in points], [value for _, value in points]


def _numbers(line: Mapping[str, object]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
