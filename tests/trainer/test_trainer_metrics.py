"""metrics.jsonl: every step exactly once."""

from __future__ import annotations

import json
from pathlib import Path

from fusery.trainer.metrics import MetricsLog, StepMetrics


def line(step: int, tokens: int = 7) -> StepMetrics:
    return StepMetrics(step, 0, 1.5, 1.0, None, None, None, 1e-3, 0.5, tokens, 3.0, 2.0)


def steps_in(path: Path) -> list[int]:
    return [json.loads(text)["step"] for text in path.read_text().splitlines()]


def test_a_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as metrics:
        metrics.write(line(1))
        assert json.loads(path.read_text())["clm_nats"] == 1.0


def test_steps_after_the_resumed_one_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as metrics:
        for step in range(1, 6):
            metrics.write(line(step))
    with MetricsLog(path, 3) as metrics:
        assert steps_in(path) == [1, 2, 3]
        metrics.write(line(4, tokens=9))
    assert steps_in(path) == [1, 2, 3, 4]
    assert json.loads(path.read_text().splitlines()[-1])["tokens"] == 9


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    with MetricsLog(path, 5):
        assert steps_in(path) == [1, 2]
