from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import signals

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops.launches import Launch
from fusery.hops.names import attempts_folder, started_folder
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.started import MAX_ATTEMPTS, Attempt
from fusery.hops.store.store import Store
from fusery.hops.worker.app import TASK_NAME, make_app
from fusery.hops.worker.command import run_worker
from fusery.runtime import tracing
from fusery.runtime.errors import ConfigError, FuseryError, InvalidInput, Overloaded, StoreFull, Unavailable
from support.source.source_servers import UniformEngine, running

CAPTURE, ALIGN, FUSE = (ShardTask(hop, "" if hop is Hop.FUSE else "s", 0) for hop in Hop)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("FUSERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path))
    return importlib.import_module("fusery.hops.worker.tasks")


def launched(store: Store, ended: str | None = None, **addresses: str) -> Launch:
    """Launch `l` of the run `r`, with one source `s` and one shard."""
    source = PlannedSource(name="s", model_fingerprint="m" * 64, tokenizer_fingerprint="t" * 64, vocabulary_size=9)
    plan = Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=1,
        target_tokenizer_fingerprint="t" * 64,
        sources=(source,),
        capture=CaptureSpec(top_k=2),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )
    launch = Launch("l", plan, addresses, ended)
    launch.write(store)
    # What the later hops need; a capture needs nothing of a hop.
    for hop in (Hop.CAPTURE, Hop.ALIGN):
        store.publish(plan.artefact(ShardTask(hop, "s", 0)), b"made before")
    return launch


def without(store: Store, launch: Launch, *tasks: ShardTask) -> Launch:
    for task in tasks:
        store.discard(launch.plan.artefact(task))
    return launch


def failures(store: Store) -> list[dict[str, Any]]:
    return [note for name in store.list_notes(attempts_folder("r", "l")) if (note := store.read_note(name))]


def started(store: Store) -> list[str]:
    return store.list_notes(started_folder("r", "l"))


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("this is not to be done")


def test_messages_are_json_with_ids_and_every_hop_has_its_queue() -> None:
    conf = make_app("redis://127.0.0.1:1/0").conf
    assert conf.task_serializer == "json"
    assert conf.accept_content == ["json"]
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert {conf.task_routes[name]["queue"] for name in TASK_NAME.values()} == {"capture", "align", "fuse"}
    assert conf.broker_transport_options["visibility_timeout"] > conf.task_time_limit


def test_a_lost_connection_costs_no_task_that_runs_and_is_mended_for_ever() -> None:
    conf = make_app("redis://127.0.0.1:1/0").conf
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    assert conf.broker_connection_max_retries is None


def test_later_hops_are_asked_for_first() -> None:
    assert make_app("redis://127.0.0.1:1/0").conf.broker_transport_options["queue_order_strategy"] == "priority"


def test_a_finished_shard_costs_one_look_and_no_note(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    launch = launched(store)
    store.publish(launch.plan.artefact(FUSE), b"done")
    monkeypatch.setattr(tasks, "perform", refuse)
    monkeypatch.setattr(Store, "write_note", refuse)
    tasks.fuse_shard("r", "l", "", 0)


def test_nothing_is_done_for_a_launch_that_has_ended(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(Store(str(tmp_path)), ended="interrupted")
    monkeypatch.setattr(tasks, "perform", refuse)
    tasks.fuse_shard("r", "l", "", 0)


def test_a_failure_is_a_note_with_its_reason_and_not_a_failed_task(tasks: ModuleType, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    without(store, launched(store), ALIGN)
    tasks.align_shard("r", "l", "s", 0)
    [note] = failures(store)
    assert started(store) == []
    assert note["task"] == "align-s-00000"
    assert "is not in the store" in note["reason"]
    assert note["retryable"] is True


def test_a_failure_names_the_documents_that_were_worked_on(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    launched(store)

    def at_the_second(store: Store, launch: Launch, task: ShardTask, at: Callable[[Sequence[str]], None]) -> None:
        at(["a", "b"])
        at(["b"])
        raise Unavailable("the source is away")

    monkeypatch.setattr(tasks, "perform", at_the_second)
    tasks.fuse_shard("r", "l", "", 0)
    assert failures(store)[0]["documents"] == ["b"]


class Broken(BaseException):
    """As a panic of a library in Rust: no `except Exception` sees it."""


@pytest.mark.parametrize("raised", [Broken("a panic"), GeneratorExit("a panic"), MemoryError("a panic")])
def test_whatever_ends_a_task_is_counted(
    raised: BaseException, tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    launched(store)

    def end(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(tasks, "perform", end)
    tasks.fuse_shard("r", "l", "", 0)
    assert [note["reason"] for note in failures(store)] == ["a panic"]
    assert started(store) == []


@pytest.mark.parametrize("raised", [SystemExit(1), KeyboardInterrupt()])
def test_a_process_that_is_told_to_end_ends(
    raised: BaseException, tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    launched(store)

    def end(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(tasks, "perform", end)
    with pytest.raises(type(raised)):
        tasks.fuse_shard("r", "l", "", 0)
    assert failures(store) == []


@pytest.mark.parametrize(("failures_before", "noted"), [(0, ["a", "b"]), (1, ["b"])])
def test_a_task_that_failed_before_notes_each_document_before_it_works_on_it(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures_before: int, noted: list[str]
) -> None:
    store = Store(str(tmp_path))
    launched(store)
    seen: list[list[str]] = []

    def look(store: Store, launch: Launch, task: ShardTask, at: Callable[[Sequence[str]], None]) -> None:
        at(["a", "b"])
        at(["b"])
        note = store.read_note(started(store)[0])
        assert note is not None
        seen.append(note["documents"])

    monkeypatch.setattr(tasks, "perform", look)
    tasks.fuse_shard("r", "l", "", 0, failures_before)
    assert seen == [noted]


def test_a_started_note_beats_and_goes_with_the_task(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    attempt = Attempt(store, "r", "l", FUSE, "id", beat_s=0.01)
    attempt.start()
    beats = set()
    deadline = time.monotonic() + 60
    while len(beats) < 3 and time.monotonic() < deadline:
        note = store.read_note(started(store)[0])
        assert note is not None
        beats.add(note["beat"])
        time.sleep(0.01)
    attempt.end()
    assert len(beats) == 3
    assert started(store) == []


def test_a_source_without_an_address_is_worth_another_attempt(tasks: ModuleType, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(Unavailable, match="source s has no address"):
        tasks.perform(store, launched(store), CAPTURE, lambda _: None)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nosuch.invalid:50051", "127.0.0.1:1,127.0.0.1:2"])
def test_a_source_that_is_away_is_found_out_before_anything_is_asked(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    store = Store(str(tmp_path))
    without(store, launched(store, s=address), CAPTURE)
    monkeypatch.setattr(tasks, "capture", refuse)
    tasks.capture_shard("r", "l", "s", 0)
    [note] = failures(store)
    assert (note["error"], note["retryable"], note["documents"]) == ("SourceAway", True, [])
    assert note["reason"].startswith("source s: ")
    assert "127.0.0.1" not in note["reason"], "an inner port says nothing to people"


@pytest.mark.parametrize(
    ("error", "comes_back", "noted"),
    [
        (Overloaded("32 requests are waiting"), True, "SourceAway"),
        (Unavailable("DEADLINE_EXCEEDED"), True, "Unavailable"),
        (Unavailable("connection reset"), False, "SourceLost"),
        (InvalidInput("a text is empty"), False, "InvalidInput"),
    ],
)
def test_a_source_that_goes_away_in_the_middle_is_told_from_a_shard_that_fails(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: FuseryError, comes_back: bool, noted: str
) -> None:
    store = Store(str(tmp_path))
    with running(UniformEngine()) as server:
        without(store, launched(store, s=server.address), CAPTURE)

        def broken(*_: object, **__: object) -> None:
            if not comes_back:
                server.drain()
            raise error

        monkeypatch.setattr(tasks, "capture", broken)
        tasks.capture_shard("r", "l", "s", 0)
    [note] = failures(store)
    assert note["error"] == noted


def test_a_defect_is_counted_like_any_failure(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    store = Store(str(tmp_path))
    launched(store)
    monkeypatch.setattr(tasks, "perform", broken)
    tasks.fuse_shard("r", "l", "", 0)
    [note] = failures(store)
    assert (note["reason"], note["retryable"]) == ("ZeroDivisionError", True)


def test_a_corrupt_input_is_taken_away_so_that_it_is_made_again(tasks: ModuleType, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    name = without(store, launched(store), ALIGN).plan.corpus_shard(0)
    store.publish(name, b"a shard")
    (tmp_path / name).write_bytes(b"a sh4rd")
    tasks.align_shard("r", "l", "s", 0)
    assert store.find(name) is None
    assert failures(store)[0]["error"] == "Corrupt"


def test_a_launch_that_the_store_does_not_know_says_which_store_was_looked_at(
    tasks: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.fuse_shard("unknown", "l", "", 0)
    assert f"run unknown has no launch l in {tmp_path}" in caplog.text


def test_a_store_that_takes_no_note_stops_no_worker(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(Store(str(tmp_path)))
    did: list[ShardTask] = []

    def full(*_: object) -> None:
        raise StoreFull.at("/store", 10, 0)

    def fail(store: Store, launch: Launch, task: ShardTask, at: object) -> None:
        did.append(task)
        raise Unavailable("away")

    monkeypatch.setattr(Store, "write_note", full)
    monkeypatch.setattr(tasks, "perform", fail)
    tasks.fuse_shard("r", "l", "", 0)
    assert did == [FUSE]


def test_a_store_that_does_not_answer_stops_no_worker(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the bucket does not answer")

    monkeypatch.setattr(Store, "read_note", away)
    tasks.fuse_shard("r", "l", "", 0)


def test_what_kills_its_process_is_not_delivered_for_ever(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    launched(store)
    for number in range(MAX_ATTEMPTS):
        Attempt(store, "r", "l", FUSE, str(number))._beating.write()
    monkeypatch.setattr(tasks, "perform", refuse)
    request = SimpleNamespace(delivery_info={"redelivered": True}, headers={})
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "current_task", SimpleNamespace(request=request))
        tasks.fuse_shard.run("r", "l", "", 0)
    assert failures(store) == []
    with monkeypatch.context() as patch:
        done: list[ShardTask] = []
        patch.setattr(tasks, "perform", lambda *given: done.append(given[2]))
        tasks.fuse_shard("r", "l", "", 0)
    assert done == [FUSE], "the coordinator may ask again"


@pytest.mark.parametrize(
    ("processes", "hops", "says"),
    [(0, ["align"], "--processes: got 0"), (1, ["algin"], "'algin' is no hop"), (1, ["align"], "FUSERY_STORE")],
)
def test_a_worker_with_wrong_settings_does_not_start(processes: int, hops: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_worker(processes, hops)


def test_a_process_that_is_told_to_stop_takes_its_note_along(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    launched(store)

    def stopped(*arguments: object) -> None:
        raise SystemExit

    monkeypatch.setattr(tasks, "perform", stopped)
    with pytest.raises(SystemExit):
        tasks.fuse_shard("r", "l", "", 0)
    assert started(store) == failures(store) == []


def test_a_message_has_ids_as_arguments_and_its_trace_as_a_header() -> None:
    app = make_app("memory://")
    with tracing.span("run") as run, app.connection_for_write() as connection:
        queue = connection.SimpleQueue("align")
        app.send_task(TASK_NAME[Hop.ALIGN], args=["r", "l", "s", 0], queue="align", connection=connection)
        message = queue.get(timeout=10)
    assert message.payload[:2] == [["r", "l", "s", 0], {}]
    assert message.headers["traceparent"] == run.context.traceparent


def test_other_peoples_messages_are_left_alone() -> None:
    app = make_app("memory://")
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("other")
        app.send_task("another.task", queue="other", connection=connection)
        assert "traceparent" not in queue.get(timeout=10).headers


def test_a_task_works_in_the_trace_of_its_message(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    launched(Store(str(tmp_path)))
    monkeypatch.setattr(tasks, "perform", lambda *_: seen.append(tracing.outgoing()))
    tracing.stop()
    with tracing.span("run") as run:
        headers = {"traceparent": run.context.traceparent}
    tasks.fuse_shard.apply(args=["r", "l", "", 0], headers=headers).get()
    tasks.fuse_shard("r", "l", "", 0)
    assert [header[3:35] == run.context.trace_id for header in seen] == [True, False]


def test_a_child_of_the_worker_logs_as_the_worker_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUSERY_LOG_FORMAT", "json")
    signals.worker_process_init.send(sender=None)
    logging.getLogger("x").info("a line")
    assert json.loads(capsys.readouterr().err)["service"] == "worker"
