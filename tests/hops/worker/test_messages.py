"""Messages that a stranger put into the broker: read as a worker's transport and tasks read them."""

from __future__ import annotations

import base64
import importlib
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.hops.launches import Launch
from fusery.hops.names import attempts_folder, started_folder
from fusery.hops.plan import Hop, ShardTask
from fusery.hops.worker.messages import MAX_BYTES, TASK_NAME, asked, rewritten, rewritten_unacked
from fusery.hops.worker.transport import Channel, _taken
from support.runs.coordinator_workers import Workers, plan

GOOD = ["r", "launch", "s0", 0, 0]


def message(
    arguments: Any = GOOD, named: Any = None, headers: dict[str, Any] | None = None, **changed: Any
) -> dict[str, Any]:
    """A message as kombu lays it into a queue, with these parts changed."""
    body = changed.pop("content", [arguments, named or {}, {"callbacks": None, "chain": None}])
    properties = {"delivery_tag": "7-a", "body_encoding": "base64", "delivery_info": {"exchange": ""}, "priority": 0}
    whole = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": TASK_NAME[Hop.CAPTURE], "id": "1-b", "lang": "py", **(headers or {})},
        "properties": properties | changed.pop("properties", {}),
    }
    return whole | changed


def read(item: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(item)
    return found


def test_a_coordinators_message_goes_on_with_its_fields_its_trace_and_its_redelivery() -> None:
    item = rewritten(json.dumps(message(headers={"traceparent": "00-a", "redelivered": True})).encode())
    assert item is not None
    found = read(item)
    assert json.loads(base64.b64decode(found["body"])) == [GOOD, {}, {}]
    assert found["headers"]["traceparent"] == "00-a"
    assert found["properties"]["delivery_info"]["redelivered"] is True
    assert rewritten(item) == item, "what went back to its queue is read again"


@pytest.mark.parametrize(
    "changed",
    [
        {
            "headers": {
                "eta": "2999-01-01T00:00:00",
                "expires": 1,
                "timelimit": [1, 1],
                "compression": "application/x-bz2",
            }
        },
        {"headers": {"retries": 10**9, "group": "g", "stamps": {"a": [1]}, "replaced_task_nesting": 1}},
        {"content": [GOOD, {}, {"chain": [{"task": "celery.map"}], "callbacks": [{"task": "x"}], "chord": {"a": 1}}]},
        {"content-type": "application/x-python-serialize"},
        {"content-encoding": "binary"},
        {"properties": {"reply_to": "x", "delivery_info": {"exchange": "other", "routing_key": "elsewhere"}}},
    ],
    ids=["dates and limits", "retries and groups", "chains", "pickle", "encoding", "routes"],
)
def test_nothing_of_a_message_but_its_own_fields_reaches_celery(changed: dict[str, Any]) -> None:
    plain, other = (rewritten(json.dumps(one).encode()) for one in (message(), message(**changed)))
    assert plain is not None
    assert other == plain


DEEP = "[" * 30_000
FOREIGN: dict[str, bytes] = {
    "no JSON": b"garbage",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "a number": b"1",
    "a list": b"[]",
    "deep": DEEP.encode(),
    "deep body": json.dumps(message() | {"body": base64.b64encode(DEEP.encode()).decode()}).encode(),
    "deep headers": json.dumps(message()).encode()[:-1] + b',"x":' + DEEP.encode(),
    "huge": json.dumps(message(headers={"x": "y" * MAX_BYTES})).encode(),
    "no body": json.dumps(message(body=None)).encode(),
    "body of no base64": json.dumps(message(body="?")).encode(),
    "body of no JSON": json.dumps(message(body="AAAA")).encode(),
    "short body": json.dumps(message(content=[GOOD])).encode(),
    "another task": json.dumps(message(headers={"task": "celery.starmap"})).encode(),
    "an unknown task": json.dumps(message(headers={"task": "x"})).encode(),
    "a task of no text": json.dumps(message(headers={"task": ["a"]})).encode(),
    "headers of no map": json.dumps(message() | {"headers": []}).encode(),
    "an id of no text": json.dumps(message(headers={"id": {}})).encode(),
    "a tag of no text": json.dumps(message(properties={"delivery_tag": {"a": 1}})).encode(),
    "no properties": json.dumps(message() | {"properties": None}).encode(),
    "no arguments": json.dumps(message([])).encode(),
    "arguments of no list": json.dumps(message("rl")).encode(),
    "too many arguments": json.dumps(message([*GOOD, 1])).encode(),
    "an argument twice": json.dumps(message(GOOD, {"shard": 1})).encode(),
    "an unknown argument": json.dumps(message(GOOD[:4], {"until": 1})).encode(),
}


@pytest.mark.parametrize("item", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_message_of_ours_is_dropped_with_one_line(item: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert rewritten(item) is None
    assert len(caplog.records) == 1
    assert "dropped" in caplog.text
    assert len(caplog.text) < 400
    assert rewritten_unacked(b"[" + item + b', "", "capture"]') is None
    assert _taken([b"capture", item]) is None
    assert _taken([b"capture\x06\x169", item]) is None, "a queue with a priority"


def test_nothing_waits_and_a_message_that_was_taken() -> None:
    assert _taken(None) is None
    item = json.dumps(message()).encode()
    assert _taken([b"capture", item]) == (b"capture", rewritten(item))
    assert _taken([b"other", b"garbage"]) == (b"other", b"garbage"), "no worker takes from it"


def test_a_message_goes_back_to_the_queue_of_its_own_task() -> None:
    assert rewritten_unacked(None) is None
    back = rewritten_unacked(json.dumps([message(), "somewhere", "else"]).encode())
    assert back is not None
    assert json.loads(back)[1:] == ["", "capture"]
    assert rewritten_unacked(b"garbage") is None
    assert rewritten_unacked(b"[1, 2, 3]") is None


def test_the_transports_client_reads_messages_through_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks: dict[str, Any] = {}

    class Client:
        def set_response_callback(self, name: str, callback: Any) -> None:
            callbacks[name] = callback

    monkeypatch.setattr("kombu.transport.redis.Channel._create_client", lambda *_: Client())
    Channel._create_client(object.__new__(Channel))
    assert set(callbacks) == {"BRPOP", "HGET"}
    assert callbacks["BRPOP"]([b"align", b"garbage"]) is None
    assert callbacks["HGET"](b"garbage") is None


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.just({"a": {}}),
    st.sampled_from(["../x", "a/b", "/etc/passwd", "", ".", "..", "a\nb", "a\x1b[2J", "a" * 1000, "\ud800", -1]),
)  # fmt: skip


@given(st.lists(ODD, max_size=6), st.dictionaries(st.sampled_from(["run_id", "launch", "shard", "odd"]), ODD))
def test_whatever_stands_in_the_fields_is_a_task_or_none(arguments: list[Any], named: dict[str, Any]) -> None:
    found = asked(Hop.CAPTURE, arguments, named)
    if found is not None:
        fields, task = found
        assert "/" not in fields.run_id + fields.launch + fields.source
        assert 0 <= task.shard < 10**9


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("FUSERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path))
    found = importlib.import_module("fusery.hops.worker.tasks")
    monkeypatch.setattr(found, "perform", lambda *_: pytest.fail("this is not to be done"))
    return found


@pytest.mark.parametrize(
    ("hop", "arguments"),
    [
        (Hop.CAPTURE, ["r", "launch", "s0", 10**30]),
        (Hop.CAPTURE, ["r", "launch", "s0", 3]),
        (Hop.CAPTURE, ["r", "launch", "s0", -1]),
        (Hop.CAPTURE, ["r", "launch", "s0", "0"]),
        (Hop.CAPTURE, ["r", "launch", "s0", 0.0]),
        (Hop.CAPTURE, ["r", "launch", "s0", True]),
        (Hop.CAPTURE, ["r", "launch", "s0", [0]]),
        (Hop.CAPTURE, ["r", "launch", "nobody", 0]),
        (Hop.CAPTURE, ["r", "launch", "", 0]),
        (Hop.CAPTURE, ["r", "launch", "s0", 0, -1]),
        (Hop.CAPTURE, ["r", "launch", "s0", 0, "many"]),
        (Hop.CAPTURE, ["unknown", "launch", "s0", 0]),
        (Hop.CAPTURE, ["r", "unknown", "s0", 0]),
        (Hop.CAPTURE, ["../r", "launch", "s0", 0]),
        (Hop.CAPTURE, ["r", "../launches/launch", "s0", 0]),
        (Hop.CAPTURE, ["r/launches", "launch", "s0", 0]),
        (Hop.CAPTURE, [None, None, None, None]),
        (Hop.CAPTURE, []),
        (Hop.ALIGN, ["r", "launch", "s0", 0]),
        (Hop.FUSE, ["r", "launch", "", 0]),
        (Hop.FUSE, ["r", "launch", "s0", 0]),
        (Hop.FUSE, ["r", "launch", "", 10**30]),
    ],
)
def test_a_task_outside_the_plan_or_before_its_needs_is_dropped_with_a_line_and_no_note(
    tasks: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, hop: Hop, arguments: list[Any]
) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=3))
    Launch("launch", workers.plan, {"s0": "127.0.0.1:1"}).write(workers.store)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            getattr(tasks, f"{hop.value}_shard")(*arguments)
    assert len(caplog.records) == 3
    for folder in (started_folder("r", "launch"), attempts_folder("r", "launch")):
        assert workers.store.list_notes(folder) == []


def test_a_fuse_needs_every_source(tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=1))
    Launch("launch", workers.plan, {}).write(workers.store)
    did: list[ShardTask] = []
    monkeypatch.setattr(tasks, "perform", lambda *given: did.append(given[2]))
    for source in ("s0", "s1"):
        tasks.fuse_shard("r", "launch", "", 0)
        assert did == []
        workers.store.publish(workers.plan.artefact(ShardTask(Hop.ALIGN, source, 0)), b"made")
    tasks.fuse_shard("r", "launch", "", 0)
    assert did == [ShardTask(Hop.FUSE, "", 0)]


def test_failures_that_the_coordinator_did_not_ask_for_make_nothing_dead(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    coordinator = workers.coordinator()
    coordinator.look()
    capture, align, fuse = workers.plan.tasks
    for _ in range(4):
        for task in (align, fuse):
            workers.fail(task)
        coordinator.look()
    workers.fail(capture)
    workers.fail(capture)
    workers.fail(capture)
    progress = coordinator.look()
    assert not progress.dead_letters
    assert [hop.failed for hop in progress.hops] == [1, 0, 0]
    for _ in range(3):
        workers.now += 30
        coordinator.look()
        workers.work()
    assert coordinator.look().finished
    assert coordinator.is_finished
    coordinator.close()


def test_copies_of_a_message_that_fail_one_after_the_other_count_as_often_as_it_was_asked_for(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    coordinator = workers.coordinator()
    coordinator.look()
    [capture] = workers.queue
    copies = [workers.start(capture) for _ in range(5)]
    for name in copies:
        coordinator.look()
        workers.store.remove_note(name)
        workers.fail(capture)
        progress = coordinator.look()
    assert not progress.dead_letters
    assert progress.hops[0].failed == 1
    coordinator.close()


def test_a_need_that_went_while_its_task_was_on_its_way_is_made_again_and_the_task_asked_for_again(
    tmp_path: Path,
) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    coordinator = workers.coordinator()
    capture, align, _ = workers.plan.tasks
    coordinator.look()
    workers.work()
    coordinator.look()
    assert workers.queue == [align]
    # The worker finds the capture damaged, takes it away, and is killed; others then drop the task.
    workers.store.discard(workers.plan.artefact(capture))
    workers.queue.clear()
    for _ in range(6):
        workers.now += 2.5
        coordinator.look()
    assert workers.queue == [capture]
    workers.work()
    coordinator.look()
    assert workers.queue == [align]
    coordinator.close()


@pytest.mark.parametrize(
    "note",
    [{}, {"beat": "x", "worker": 1}, {"beat": 1}, {"reason": 1, "error": [], "retryable": "no", "documents": 3}],
)
def test_notes_of_attempts_with_wrong_fields_end_no_look(tmp_path: Path, note: dict[str, Any]) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    coordinator = workers.coordinator()
    coordinator.look()
    for folder in (started_folder("r", "launch"), attempts_folder("r", "launch")):
        workers.store.write_note(f"{folder}/capture-s0-00000.1.json", note)
        workers.store.write_note(f"{folder}/capture-nobody-{10**30}.2.json", note)
    progress = coordinator.look()
    assert progress.hops[0].failed == 1, "a damaged note of a failure is one"
    coordinator.close()
