"""A source whose server is away makes its tasks wait, is told of in words, and stops nobody else."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fusery.hops.names import attempts_folder
from fusery.hops.plan import Hop, ShardTask
from fusery.hops.started import MAX_ATTEMPTS
from fusery.run import local
from fusery.run.board import Board, Shown, hop_lines
from fusery.run.coordinator.absences import Absences
from fusery.run.coordinator.attempts import Failure
from fusery.run.coordinator.progress import FailedAttempts, Progress
from fusery.run.local import Services, patient_client
from fusery.run.planning import measure_sources
from fusery.run.steps import steps
from fusery.runtime.errors import Mismatch, Overloaded, Unavailable
from fusery.runtime.retry import RetryPolicy
from fusery.source import client as source_client
from fusery.source.api import Document
from fusery.source.client import SourceClient
from support.runs.coordinator_workers import Workers, plan
from support.source.source_servers import UniformEngine, running

AWAY = ShardTask(Hop.CAPTURE, "s0", 0)


def of(progress: Progress, source: str) -> tuple[int, int, str]:
    """Done, failed and what is waited for of a source's captures."""
    hop = next(hop for hop in progress.hops if (hop.hop, hop.source) == (Hop.CAPTURE, source))
    return hop.done, hop.failed, hop.waits_for


def work_while_away(workers: Workers, error: str = "SourceAway") -> None:
    """All that waits is done, but of source s0, which is away."""
    for task in list(workers.queue):
        workers.queue.remove(task)
        if (task.hop, task.source) == (Hop.CAPTURE, "s0"):
            workers.fail(task, error=error)
        else:
            workers.make(task)


@pytest.mark.parametrize("minutes", [1, 30, 600])
def test_a_source_that_is_away_burns_no_attempts_and_the_others_go_on(tmp_path: Path, minutes: int) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=6))
    coordinator = workers.coordinator(max_in_flight=4)
    for _ in range(minutes * 6):
        progress = coordinator.look()
        work_while_away(workers)
        workers.now += 10
    assert of(progress, "s1") == (6, 0, "")
    done, failed, why = of(progress, "s0")
    assert (done, failed) == (0, 0)
    assert why.endswith("broke"), "the reason of the worker"
    assert progress.dead_letters == ()
    assert len(workers.store.list_notes(attempts_folder("r", "launch"))) <= 1, "notes do not pile up"
    while not coordinator.is_finished:
        workers.now += 10
        workers.work()
        progress = coordinator.look()
    assert progress.finished
    assert of(progress, "s0") == (6, 0, "")


def test_while_a_source_is_away_one_task_at_a_time_looks_for_it_less_and_less(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=20))
    coordinator = workers.coordinator(max_in_flight=8)
    coordinator.look()
    work_while_away(workers)
    asked = []
    for second in range(600):
        coordinator.look()
        asked += [second] * sum(task.source == "s0" for task in workers.queue)
        work_while_away(workers)
        workers.now += 1
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert min(gaps) >= 2
    assert max(gaps) <= 40
    assert len(asked) < 40


def test_a_shard_that_ends_its_source_each_time_is_given_up_after_all(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    coordinator = workers.coordinator()
    rounds = 0
    while rounds < 200:
        rounds += 1
        progress = coordinator.look()
        if coordinator.is_finished:
            break
        work_while_away(workers, "SourceLost")
        workers.now += 60
    assert [letter.task for letter in progress.dead_letters] == [AWAY]
    assert MAX_ATTEMPTS < rounds < 50


@pytest.mark.parametrize(
    ("error", "excused"),
    [("SourceAway", True), ("SourceLost", True), ("Unavailable", False), ("Killed", False), ("Mismatch", False)],
)
def test_only_the_source_excuses_a_task(error: str, excused: bool) -> None:
    absences = Absences(lambda: 0.0)
    assert absences.excuse(Failure(AWAY, "why", error, True)) is excused
    assert (absences.why("s0"), absences.most("s0", 8)) == (("why", 0) if excused else ("", 8))
    absences.answered("s0")
    assert (absences.why("s0"), absences.most("s0", 8)) == ("", 8)


def test_the_screen_names_the_source_once_when_it_goes_and_once_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=2))
    coordinator = workers.coordinator()
    shown = Shown(Board(Console(width=200)))
    for _ in range(5):
        shown(coordinator.look())
        work_while_away(workers)
        workers.now += 60
    out = capsys.readouterr().out
    assert out.count("what needs this source waits, all else goes on") == 1
    while not coordinator.is_finished:
        workers.now += 60
        workers.work()
        shown(coordinator.look())
    assert capsys.readouterr().out.count("source s0: it answers again") == 1


def test_reasons_of_failed_attempts_are_counted_and_the_latest_stand_first(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=5))
    coordinator = workers.coordinator()
    coordinator.look()
    for shard in (0, 1, 1, 2, 3, 0):
        workers.now += 100
        coordinator.look()
        workers.fail(ShardTask(Hop.CAPTURE, "s0", shard))
        progress = coordinator.look()
    found = progress.hops[0].reasons
    assert found[0] == FailedAttempts(2, "capture-s0-00000 broke")
    assert len(found) == 3
    assert hop_lines(progress)[0].note.startswith("2 failed: capture-s0-00000 broke; 1 failed: ")
    assert Progress.from_json(progress.to_json()) == progress


def test_progress_that_an_earlier_version_kept_can_be_read() -> None:
    hop = {"hop": "capture", "source": "s", "done": 1, "total": 2, "running": 0, "failed": 1, "dead": 0, "bytes": 5}
    progress = Progress.from_json({"hops": [hop], "dead_letters": []})
    assert (progress.hops[0].reasons, progress.hops[0].note) == ((), "")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    # A knock finds a server that is back at once, over a channel of its own; the call's own channel still pauses, by
    # default up to 2 s. Retries must go on for several times its pause, or a source that is back counts as failing.
    quick = {**dict(source_client._OPTIONS), "grpc.max_reconnect_backoff_ms": 100}
    monkeypatch.setattr(source_client, "_OPTIONS", tuple(quick.items()))
    monkeypatch.setattr(local, "_RETRY_FOR_S", 2.0)
    monkeypatch.setattr(local, "_POLICY", RetryPolicy(0.1, 10.0, spreads=False))
    monkeypatch.setattr(local, "_KNOCK_AGAIN_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_run_that_asks_a_source_itself_waits_until_it_is_back() -> None:
    said: list[str] = []
    with running(UniformEngine()) as first:
        address = first.address
        # Waits until it is said that the source is away, and brings it back at its address.
        with patient_client(address, "docs", said.append) as client:
            assert len(client.compute([Document("a", "text")], 2)) == 1
            first.drain(0)
            back = threading.Event()

            def come_back() -> None:
                while not said:
                    back.wait(0.01)
                with running(UniformEngine(), port=int(address.rpartition(":")[2])):
                    back.wait(60)

            thread = threading.Thread(target=come_back)
            thread.start()
            answers = client.compute([Document("b", "text")], 2)
            back.set()
            thread.join()
    assert len(answers) == 1
    assert said[0].startswith("source docs: ")
    assert address not in said[0]
    assert said[-1] == ""


@pytest.mark.usefixtures("impatient")
def test_an_upgrade_while_the_run_measures_its_sources_costs_time_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(UniformEngine()) as first:
        address = first.address
    answers: list[int] = []

    def measure(_run: object, _plan: object, _name: str, client: SourceClient, mark: steps.Mark) -> None:
        answers.append(len(client.compute([Document("b", "text")], 2)))
        mark("measure docs", 1, 1, "documents")

    said: list[tuple[str, str]] = []
    is_said = threading.Event()

    def say(event: str, text: str, *_: object, **__: object) -> None:
        said.append((event, text))
        is_said.set()

    def come_back() -> None:
        is_said.wait(60)
        with running(UniformEngine(), port=int(address.rpartition(":")[2])):
            done.wait(60)

    monkeypatch.setattr(steps, "measure_source", measure)
    done, thread = threading.Event(), threading.Thread(target=come_back)
    thread.start()
    board: Any = SimpleNamespace(say=say, update=lambda *_: None)
    supervisor: Any = SimpleNamespace(check=lambda: None)
    plan: Any = SimpleNamespace(sources=[SimpleNamespace(name="docs")])
    run: Any = None
    measure_sources(run, plan, Services({"docs": address}, "", supervisor, ()), board)
    done.set()
    thread.join()
    assert answers == [1]
    [(event, text), *_] = said
    assert event == "waiting"
    assert text.startswith("source docs: ")
    assert address not in text


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("error", [Unavailable("hangs"), Mismatch("another model")])
def test_what_a_source_that_is_there_says_again_and_again_is_an_error(error: Exception) -> None:
    def fail(_: object) -> None:
        raise error

    said: list[str] = []
    with (
        running(UniformEngine(fail)) as server,
        patient_client(server.address, "docs", said.append) as client,
        pytest.raises(type(error)),
    ):
        client.compute([Document("a", "text")], 2)
    assert not any(said)


@pytest.mark.usefixtures("impatient")
def test_a_full_source_is_waited_for() -> None:
    times: list[int] = []

    def full_at_first(_: object) -> None:
        times.append(1)
        if len(times) < 8:
            raise Overloaded("32 requests are waiting")

    with running(UniformEngine(full_at_first)) as server, patient_client(server.address, "s", lambda _: None) as client:
        assert len(client.compute([Document("a", "text")], 2)) == 1
