"""The trainer's metrics file as it is found: whole, repeated, torn."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fusery.registry.training_metrics import read_steps, series
from fusery.runtime.errors import Corrupt


def written(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_steps_are_numbers_by_name_and_leave_out_what_is_none(tmp_path: Path) -> None:
    path = written(tmp_path, {"step": 1, "loss": 2.5, "fusion_nats": None, "tokens": 7, "skipped": False, "note": "x"})
    (step,) = read_steps(path)
    assert step.step == 1
    assert step.values == {"loss": 2.5, "tokens": 7.0}


def test_the_later_line_of_a_repeated_step_counts_and_steps_ascend(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"step": 1, "loss": 3}, {"step": 3, "loss": 9}, {"step": 2, "loss": 2}, {"step": 3, "loss": 1}
    )
    assert series(read_steps(path), "loss") == ([1, 2, 3], [3.0, 2.0, 1.0])


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    assert len(read_steps(written(tmp_path, {"step": 1, "loss": 3}, '{"step": 2, "lo'))) == 1


def test_a_bad_line_in_the_middle_names_the_file_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"metrics\.jsonl, line 1: expected a JSON object, got 'oops'"):
        read_steps(written(tmp_path, "oops\n", {"step": 1}))


def test_lines_without_a_step_and_empty_lines_are_left_out(tmp_path: Path) -> None:
    assert read_steps(written(tmp_path, {"loss": 3}, "\n", "[]\n")) == []


def test_the_last_step_ended_when_the_file_was_last_changed_and_the_others_before(tmp_path: Path) -> None:
    path = written(tmp_path, {"step": 1, "elapsed_s": 10.0}, {"step": 2, "elapsed_s": 25.0})
    os.utime(path, (1_000_000, 1_000_000))
    assert [step.time_s for step in read_steps(path)] == [999_985.0, 1_000_000.0]


def test_without_elapsed_times_all_steps_have_the_time_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0})
    os.utime(path, (1_000_000, 1_000_000))
    assert [step.time_s for step in read_steps(path)] == [1_000_000.0, 1_000_000.0]


def test_series_skips_steps_that_lack_the_name(tmp_path: Path) -> None:
    steps = read_steps(written(tmp_path, {"step": 1, "a": 1}, {"step": 2, "b": 1}, {"step": 3, "a": 3}))
    assert series(steps, "a") == ([1, 3], [1.0, 3.0])
    assert series(steps, "c") == ([], [])
