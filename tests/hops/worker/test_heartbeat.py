"""The file by which Kubernetes sees that a worker lives."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from fusery.hops.worker import app as worker_app
from fusery.hops.worker.app import add_heartbeat, touch

LONG_AGO = 1_000_000.0


@pytest.fixture
def app() -> Celery:
    return Celery("test", broker="memory://", set_as_current=False)


def make_old(file: Path) -> None:
    os.utime(file, (LONG_AGO, LONG_AGO))


def wait_until(holds: Callable[[], bool]) -> None:
    ticks = threading.Event()
    for _ in range(600):
        if holds():
            return
        ticks.wait(0.05)
    pytest.fail("it did not come to hold within 30 s")


def run_worker(app: Celery, during: Callable[[], None]) -> None:
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        during()


def test_a_worker_touches_its_file_when_it_takes_tasks_and_again_and_again(
    tmp_path: Path, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_app, "BEAT_S", 0.05)
    file = tmp_path / "heartbeat"
    add_heartbeat(app, file)

    def look() -> None:
        wait_until(file.exists)
        for _ in range(2):
            make_old(file)
            wait_until(lambda: file.stat().st_mtime > LONG_AGO)

    run_worker(app, look)


def test_a_worker_that_has_stopped_touches_it_no_more(
    tmp_path: Path, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_app, "BEAT_S", 0.05)
    file = tmp_path / "heartbeat"
    add_heartbeat(app, file)
    run_worker(app, lambda: wait_until(file.exists))
    make_old(file)
    threading.Event().wait(0.5)
    assert file.stat().st_mtime == LONG_AGO


def test_a_step_that_never_started_can_be_stopped(tmp_path: Path, app: Celery) -> None:
    add_heartbeat(app, tmp_path / "heartbeat")
    (step,) = app.steps["consumer"]
    step(object()).stop(object())
    assert not (tmp_path / "heartbeat").exists()


def test_a_file_that_cannot_be_written_is_logged_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        touch(tmp_path / "missing" / "heartbeat")
    assert "missing/heartbeat can't be written: No such file or directory; the worker goes on" in caplog.text
