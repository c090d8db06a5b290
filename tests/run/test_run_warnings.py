"""A run says where coverage is low after its hops and before it trains, once, and goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fusery.hops.plan import Plan
from fusery.run import run as run_module
from fusery.run.board import Board
from fusery.run.open_run import Run
from support.runs.coverage_notes import aligned_note, begun, finish


def carried_out(run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the run printed until it trained. The hops are done; training and what follows only look."""
    said: list[str] = []
    monkeypatch.setattr(run_module, "check_run", lambda _: SimpleNamespace(tokenizer=None))
    monkeypatch.setattr(run_module, "_hops", lambda *_: plan)
    monkeypatch.setattr(run_module.run_children, "train", lambda *_: said.append(capsys.readouterr().out))
    monkeypatch.setattr(run_module.run_children, "_command", lambda *_: None)
    run_module._carry_out(run, "launch", None, Board(Console()))
    assert "warning" not in capsys.readouterr().out
    return said[0].splitlines()


def test_each_figure_under_its_floor_is_one_line_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, plan = begun(tmp_path)
    finish(run, plan, code={"docs": aligned_note(100, [0.8] * 30), "code": aligned_note(100, [0.2] * 90)})
    warnings = [line for line in carried_out(run, plan, monkeypatch, capsys) if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert warnings[0].startswith("warning: source code, domain code: 20.0% of the mass is kept on average, under ")
    assert warnings[1].startswith("warning: source code, domain docs: evidence at 30.0% of the target's positions")
    assert all("; likely: " in line for line in warnings)


@pytest.mark.parametrize("floors", [{}, {"positions_floor": 0, "mass_floor": 0}])
def test_enough_coverage_is_not_talked_about(
    floors: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, plan = begun(tmp_path, coverage=floors)
    finish(run, plan, **({"code": {"docs": aligned_note(100, [])}} if floors else {}))
    assert not [line for line in carried_out(run, plan, monkeypatch, capsys) if "warning" in line]


def test_floors_change_neither_the_run_nor_its_shards(tmp_path: Path) -> None:
    runs = [begun(tmp_path / str(floor), coverage={"positions_floor": floor}) for floor in (0.1, 0.9)]
    assert runs[0][0].run_id == runs[1][0].run_id
    names = [[plan.artefact(task) for task in plan.tasks] for _, plan in runs]
    assert names[0] == names[1]


def test_other_floors_are_another_promise_so_the_report_is_written_again(tmp_path: Path) -> None:
    one, other = (
        begun(tmp_path / str(f), coverage={"mass_floor": f}, services={"store": str(tmp_path)})[0] for f in (0, 1)
    )
    assert run_module._promised(one) != run_module._promised(other)
