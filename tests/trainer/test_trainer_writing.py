"""Checkpoints beside the steps: one at a time, whole, and nothing that goes wrong is lost."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusery.runtime.errors import StoreFull
from fusery.trainer import checkpoint, loop
from fusery.trainer.checkpoint import Writer
from fusery.trainer.job import train
from fusery.trainer.loop import Diverged
from support.models.training_data import pico_job


def refuse() -> None:
    raise StoreFull("no room")


def test_a_write_goes_on_beside_what_follows_and_the_next_one_waits_for_it() -> None:
    may_end, done = threading.Event(), list[str]()

    def first() -> None:
        assert may_end.wait(30)
        done.append("first")

    with Writer(beside=True) as writer:
        writer.write(first)
        writer.check()
        assert done == []
        threading.Timer(0.05, may_end.set).start()
        writer.write(lambda: done.append("second"))
        assert done[0] == "first"
    assert done == ["first", "second"]


def test_without_it_a_write_is_done_when_the_call_returns() -> None:
    done: list[int] = []
    with Writer(beside=False) as writer:
        writer.write(lambda: done.append(1))
        assert done == [1]
        with pytest.raises(StoreFull):
            writer.write(refuse)


def test_what_goes_wrong_beside_is_raised_at_the_next_look_once() -> None:
    with pytest.raises(StoreFull), Writer(beside=True) as writer:
        writer.write(refuse)
    with Writer(beside=True) as writer:
        writer.write(refuse)
        with pytest.raises(StoreFull):
            writer.wait()
        writer.check()


def test_why_a_training_ended_is_said_before_what_became_of_its_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    def diverge() -> None:
        with Writer(beside=True) as writer:
            writer.write(refuse)
            raise Diverged("nan")

    with caplog.at_level(logging.ERROR), pytest.raises(Diverged):
        diverge()
    assert "the last checkpoint could not be written either" in caplog.text


def test_copies_stay_as_they_are_while_the_weights_change() -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    copies = checkpoint.training_tensors(model, optimizer, copies=True)
    before = {name: tensor.clone() for name, tensor in copies.items()}
    optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in copies.items())
    now = checkpoint.training_tensors(model, optimizer)
    assert not any(torch.equal(before[name], tensor) for name, tensor in now.items())
    assert checkpoint.training_tensors(model, optimizer, keeps=False) == {}


def test_a_training_that_writes_beside_its_steps_gives_the_same_bytes_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    usual = pico_job(tmp_path / "usual", "gpt2", checkpoint_every_steps=1, keep_checkpoints=3)
    result = train(usual)
    monkeypatch.setattr(loop, "writes_beside", lambda _: True)
    beside = replace(usual, output=tmp_path / "beside")
    assert train(beside).weights_digest == result.weights_digest
    names = [sorted(path.name for path in (job.output / "checkpoints").iterdir()) for job in (usual, beside)]
    assert names[0] == names[1]
    assert len(names[0]) == 3
    for name in names[0]:
        files = [job.output / "checkpoints" / name / checkpoint.TENSORS for job in (usual, beside)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_no_room_for_a_checkpoint_that_is_written_beside_stops_the_training_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "writes_beside", lambda _: True)
    job = pico_job(tmp_path / "out", checkpoint_every_steps=1)

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save", lambda *_: refuse())
        with pytest.raises(StoreFull):
            train(job)
    assert not (job.output / "result.json").exists()
    assert train(job).steps == train(replace(job, output=tmp_path / "undisturbed")).steps
