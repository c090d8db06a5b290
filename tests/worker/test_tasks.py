from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from types import ModuleType

import pytest
from celery import signals

from fusery import tracing
from fusery.errors import ConfigError, Unavailable
from fusery.formats.store import Store
from fusery.run_config import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.worker.app import TASK_NAME, make_app
from fusery.worker.command import run_worker
from fusery.worker.plan import (
    Hop,
    Plan,
    PlannedSource,
    ShardTask,
    addresses_name,
    attempts_folder,
    plan_name,
    started_folder,
)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("FUSERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path))
    return importlib.import_module("fusery.worker.tasks")


def planned(store: Store) -> Plan:
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
    store.write_note(plan_name("r"), plan.model_dump(mode="json"))
    return plan


def notes(store: Store) -> list[dict[str, object]]:
    return [note for name in store.list_notes(attempts_folder("r", "l")) if (note := store.read_note(name))]


def test_messages_are_json_with_ids_and_every_hop_has_its_queue() -> None:
    conf = make_app("redis://127.0.0.1:1/0").conf
    assert conf.task_serializer == "json"
    assert conf.accept_content == ["json"]
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert {conf.task_routes[name]["queue"] for name in TASK_NAME.values()} == {"capture", "align", "fuse"}
    assert conf.broker_transport_options["visibility_timeout"] > conf.task_time_limit


def test_a_finished_shard_costs_one_look(tasks: ModuleType, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    plan = planned(store)
    task = ShardTask(Hop.FUSE, "", 0)
    entry = store.publish(plan.artefact(task), b"done")
    assert tasks.perform(store, "r", task) == entry


def test_a_failure_is_a_note_with_its_reason_and_not_a_failed_task(tasks: ModuleType, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    planned(store)
    tasks.align_shard("r", "l", "s", 0)
    [note] = notes(store)
    assert store.list_notes(started_folder("r", "l")) == []
    assert note["task"] == "align-s-00000"
    assert "is not in the store" in str(note["reason"])
    assert note["retryable"] is True


def test_a_source_that_does_not_answer_is_worth_another_attempt(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    planned(store)
    with pytest.raises(Unavailable, match="source s has no address yet"):
        tasks.perform(store, "r", ShardTask(Hop.CAPTURE, "s", 0))
    store.write_note(addresses_name("r"), {"s": "127.0.0.1:1"})

    def unavailable(*arguments: object) -> None:
        raise Unavailable("connection refused")

    monkeypatch.setattr(tasks.hops, "capture", unavailable)
    tasks.capture_shard("r", "l", "s", 0)
    [note] = notes(store)
    assert (note["reason"], note["retryable"]) == ("connection refused", True)


def test_a_defect_is_counted_like_any_failure(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tasks, "perform", broken)
    tasks.fuse_shard("r", "l", "", 0)
    [note] = notes(Store(str(tmp_path)))
    assert (note["reason"], note["retryable"]) == ("ZeroDivisionError", True)


def test_a_corrupt_input_is_taken_away_so_that_it_is_made_again(tasks: ModuleType, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    plan = planned(store)
    name = plan.corpus_shard(0)
    store.publish(name, b"a shard")
    (tmp_path / name).write_bytes(b"a sh4rd")
    tasks.align_shard("r", "l", "s", 0)
    assert store.find(name) is None
    assert notes(store)[0]["error"] == "Corrupt"


def test_a_run_without_a_plan_says_which_store_was_looked_at(tasks: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="has no plan in"):
        tasks.perform(Store(str(tmp_path)), "unknown", ShardTask(Hop.FUSE, "", 0))


@pytest.mark.parametrize(
    ("processes", "hops", "says"),
    [(0, ["align"], "--processes: got 0"), (1, ["algin"], "'algin' is no hop"), (1, ["align"], "FUSERY_STORE")],
)
def test_a_worker_with_wrong_settings_does_not_start(processes: int, hops: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_worker(processes, hops)


def test_a_killed_attempt_leaves_its_note(tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "perform", killed)
    with pytest.raises(KeyboardInterrupt):
        tasks.fuse_shard("r", "l", "", 0)
    assert len(Store(str(tmp_path)).list_notes(started_folder("r", "l"))) == 1


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
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        signals.setup_logging.send(sender=None)
        logging.getLogger("x").info("a line")
    finally:
        root.handlers[:], root.level = handlers, level
    assert json.loads(capsys.readouterr().err)["service"] == "worker"
