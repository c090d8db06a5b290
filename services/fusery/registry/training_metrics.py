"""The trainer's metrics file: JSON lines, one a step, `step` and any numbers by name.

A trainer that was killed may leave a torn last line, which is left out, and one that took up an older
checkpoint may repeat steps, of which the later line counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusery.errors import Corrupt
from fusery.json_text import parse_json


@dataclass(frozen=True, slots=True)
class Step:
    """The numbers of one optimizer step, by name. `time_s`: the Unix time at which it ended, as far as known."""

    step: int
    time_s: float
    values: Mapping[str, float]


def read_steps(path: Path) -> list[Step]:
    """The steps in `path`, ascending, each once. Lines without a step are left out, and so is what is no number.

    A line without `time_s` has the time of the file's last change, less the training time since.

    Raises:
        Corrupt: a line that is not the last is no JSON object.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    numbers_of: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            numbers = _numbers(parse_json(line)) if line.strip() else {}
        except (ValueError, AttributeError) as error:
            if number == len(lines):
                break
            raise Corrupt(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}; train again") from error
        if "step" in numbers:
            numbers_of[int(numbers.pop("step"))] = numbers
    end_s = path.stat().st_mtime
    total_s = max((numbers.get("elapsed_s", 0.0) for numbers in numbers_of.values()), default=0.0)
    return [
        Step(step, numbers.pop("time_s", end_s - (total_s - numbers.get("elapsed_s", total_s))), numbers)
        for step, numbers in sorted(numbers_of.items())
    ]


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
