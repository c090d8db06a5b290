"""Checkpoints: whole or not there, of this configuration or refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from fusery.runtime.errors import Mismatch
from fusery.trainer.checkpoint import COMPLETE, STATE, TENSORS, Cursor, newest, restore, save, training_tensors

CONFIG: dict[str, Any] = {"seed": 1, "training.epochs": 2}


def save_steps(folder: Path, *steps: int, keep: int = 5) -> None:
    for step in steps:
        save(folder, Cursor(step=step), {"parameter.w": torch.full((3,), float(step))}, CONFIG, keep)


def step_of_newest(folder: Path) -> int | None:
    found = newest(folder, CONFIG)
    return None if found is None else found.cursor.step


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    cursor = Cursor(7, 1, 2, 1, 900, 3.25)
    save(tmp_path, cursor, {"parameter.w": torch.tensor([1.5, -2.0])}, CONFIG, 2)
    found = newest(tmp_path, CONFIG)
    assert found is not None
    assert found.cursor == cursor
    assert found.tensors["parameter.w"].tolist() == [1.5, -2.0]


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path, CONFIG) is None
    assert newest(tmp_path / "nowhere", CONFIG) is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("name", [TENSORS, STATE, COMPLETE])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_steps(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flip":
            path.write_bytes(content)
        case "truncate":
            path.write_bytes(content[:-5])
        case _:
            path.unlink()
    with caplog.at_level(logging.WARNING):
        assert step_of_newest(tmp_path) == 1
    assert "step-00000002 is not usable" in caplog.text


def test_a_draft_that_a_kill_left_is_no_checkpoint_and_goes_away(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    (tmp_path / "step-00000002.tmp").mkdir()
    (tmp_path / "step-00000002.tmp" / TENSORS).write_bytes(b"half")
    assert step_of_newest(tmp_path) == 1
    save_steps(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    (tmp_path / "step-00000001" / TENSORS).write_bytes(b"")
    save_steps(tmp_path, 1)
    assert step_of_newest(tmp_path) == 1


def test_a_checkpoint_of_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    with pytest.raises(Mismatch, match=r"seed \(1 there, 2 now\), training\.tail \(None there, 'drop' now\)"):
        newest(tmp_path, CONFIG | {"seed": 2, "training.tail": "drop"})


def test_an_unknown_format_version_is_not_read(tmp_path: Path) -> None:
    from fusery.trainer.checkpoint import file_digest

    save_steps(tmp_path, 1, 2)
    folder = tmp_path / "step-00000002"
    state = json.loads((folder / STATE).read_text()) | {"format_version": 99}
    (folder / STATE).write_text(json.dumps(state))
    digests = {name: file_digest(folder / name) for name in (TENSORS, STATE)}
    (folder / COMPLETE).write_text(json.dumps(digests))
    assert step_of_newest(tmp_path) == 1


def test_model_and_optimizer_are_restored_to_the_bit(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.linspace(-1, 1, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = build()
    step(model, optimizer)
    save(tmp_path, Cursor(1), training_tensors(model, optimizer), CONFIG, 1)
    step(model, optimizer)
    again, optimizer_again = build()
    found = newest(tmp_path, CONFIG)
    assert found is not None
    restore(found, again, optimizer_again)
    step(again, optimizer_again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
