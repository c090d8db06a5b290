from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.config.sections import CaptureSpec
from fusery.hops.names import attempts_folder
from fusery.hops.plan import Hop, ShardTask
from fusery.hops.started import MAX_ATTEMPTS
from fusery.run.coordinator import execution
from fusery.run.coordinator.coordinator import Coordinator, Pace
from fusery.run.coordinator.progress import Progress
from fusery.run.coordinator.shard_table import ShardTable
from fusery.runtime.errors import StoreFull, Unavailable
from support.runs.coordinator_workers import Workers, plan

CAPTURE, ALIGN, FUSE = (ShardTask(hop, "" if hop is Hop.FUSE else "s0", 0) for hop in Hop)


def one_shard(folder: Path) -> Workers:
    return Workers(folder, plan(sources=1, shards=1))


def looks(workers: Workers, coordinator: Coordinator, seconds: float, step: float = 1.0) -> Progress:
    """The last of a look every `step` for `seconds`."""
    progress = coordinator.look()
    for _ in range(round(seconds / step)):
        workers.now += step
        progress = coordinator.look()
    return progress


def test_a_plan_names_every_shard_of_every_hop_once() -> None:
    tasks = plan(sources=2, shards=3).tasks
    assert len(tasks) == len(set(tasks)) == 2 * 3 + 2 * 3 + 3
    names = [plan().artefact(task) for task in tasks]
    assert len(set(names)) == len(names)
    assert [ShardTask.from_key(task.key) for task in tasks] == list(tasks)


def test_a_capture_is_named_by_source_corpus_and_capture_settings_alone() -> None:
    one = plan()
    other = one.model_copy(update={"target_tokenizer_fingerprint": "u" * 64, "run_id": "q"})
    for task in one.tasks:
        same = one.artefact(task) == other.artefact(task)
        assert same is (task.hop is Hop.CAPTURE)
    more = one.model_copy(update={"capture": CaptureSpec(top_k=5)})
    assert all(one.artefact(task) != more.artefact(task) for task in one.tasks)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), loss=st.floats(0, 0.6))
def test_whatever_is_lost_killed_or_delivered_twice_everything_gets_done(
    tmp_path_factory: pytest.TempPathFactory, seed: int, loss: float
) -> None:
    chance = random.Random(seed)
    workers = Workers(tmp_path_factory.mktemp("store"))
    coordinator = workers.coordinator(max_in_flight=4)
    for _ in range(2000):
        progress = coordinator.look()
        if coordinator.is_finished:
            break
        for task in workers.queue:
            for _delivery in range(chance.choice([1, 1, 2])):
                if chance.random() >= loss:
                    workers.make(task)
        workers.queue.clear()
        workers.now += chance.choice([0.5, 5.0])
        if chance.random() < 0.05:
            coordinator.close()
            coordinator = workers.coordinator(max_in_flight=4)
    coordinator.close()
    assert progress.finished
    assert not progress.dead_letters
    assert all(workers.store.find(workers.plan.artefact(task)) for task in workers.plan.tasks)


def test_a_second_coordinator_publishes_only_what_is_missing(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=2))
    for task in workers.plan.tasks[:3]:
        workers.make(task)
    workers.coordinator().look()
    assert workers.queue == [FUSE, ShardTask(Hop.ALIGN, "s0", 1)]


def test_all_sources_get_work_at_the_same_time(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    workers.coordinator(max_in_flight=4).look()
    assert [(task.source, task.shard) for task in workers.queue] == [("s0", 0), ("s1", 0), ("s0", 1), ("s1", 1)]


def test_a_slow_source_does_not_take_the_places_of_the_others(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=9))
    coordinator = workers.coordinator(max_in_flight=4)
    for _ in range(5):
        coordinator.look()
        for task in [task for task in workers.queue if task.source == "s1"]:
            workers.queue.remove(task)
            workers.make(task)
    assert [task.shard for task in workers.queue if task.source == "s0"] == [0, 1]
    assert coordinator.look().hops[1].done > 4


def test_no_more_than_the_bound_is_published_of_a_hop_and_nothing_twice(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    coordinator = workers.coordinator(max_in_flight=2)
    looks(workers, coordinator, 60)
    assert len(workers.queue) == 2


def test_nothing_after_the_last_wanted_hop_is_published(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator(until=Hop.ALIGN)
    while not coordinator.is_finished:
        coordinator.look()
        workers.work()
    assert workers.store.find(workers.plan.artefact(ALIGN)) is not None
    assert workers.store.find(workers.plan.artefact(FUSE)) is None
    assert [hop.hop for hop in coordinator.look().hops] == [Hop.CAPTURE, Hop.ALIGN]


def test_a_shard_that_fails_three_times_is_a_dead_letter_with_its_documents_and_the_rest_is_done(
    tmp_path: Path,
) -> None:
    workers = Workers(tmp_path)
    poison = ShardTask(Hop.CAPTURE, "s1", 1)
    coordinator = workers.coordinator()
    for _ in range(30):
        progress = coordinator.look()
        if coordinator.is_finished:
            break
        for task in list(workers.queue):
            workers.queue.remove(task)
            workers.fail(task) if task == poison else workers.make(task)
        workers.now += 5
    [letter] = progress.dead_letters
    assert (letter.task, letter.reason, letter.documents) == (poison, f"{poison.key} broke", ("document 3",))
    assert workers.notes == MAX_ATTEMPTS
    missing = {task for task in workers.plan.tasks if workers.store.find(workers.plan.artefact(task)) is None}
    assert missing == {poison, ShardTask(Hop.ALIGN, "s1", 1), ShardTask(Hop.FUSE, "", 1)}
    assert not progress.finished


def test_a_failed_task_waits_a_moment_before_it_is_tried_again(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.fail(workers.queue.pop())
    coordinator.look()
    assert workers.queue == []
    workers.now += Pace().retry_s
    coordinator.look()
    assert workers.queue == [CAPTURE]


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.fail(workers.queue.pop(), retryable=False)
    progress = coordinator.look()
    assert len(progress.dead_letters) == 1
    assert coordinator.is_finished
    assert workers.queue == []


def test_a_full_store_ends_the_run_in_the_words_of_the_worker(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.fail(workers.queue.pop(), error="StoreFull")
    with pytest.raises(StoreFull, match=r"^capture-s0-00000 broke$"):
        coordinator.look()


def test_a_damaged_input_is_made_again_before_what_needs_it(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    workers.make(CAPTURE)
    coordinator = workers.coordinator()
    coordinator.look()
    assert workers.queue == [ALIGN]
    workers.queue.clear()
    workers.store.discard(workers.plan.artefact(CAPTURE))
    workers.fail(ALIGN)
    coordinator.look()
    assert workers.queue == [CAPTURE]
    workers.work()
    looks(workers, coordinator, 2)
    assert workers.queue == [ALIGN]


def test_a_corpus_shard_that_was_taken_away_is_published_again(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.store.discard(workers.plan.corpus_shard(0))
    made = workers.inputs_made
    workers.fail(workers.queue.pop())
    coordinator.look()
    assert workers.inputs_made == made + 1
    assert workers.store.find(workers.plan.corpus_shard(0)) is not None


def test_inputs_that_can_not_be_made_again_end_in_a_dead_letter_and_not_in_a_crash(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()

    def unavailable() -> None:
        raise Unavailable("the file is gone")

    coordinator.make_inputs = unavailable
    workers.store.discard(workers.plan.corpus_shard(0))
    for _ in range(MAX_ATTEMPTS):
        looks(workers, coordinator, 10)
        workers.fail(workers.queue.pop())
    coordinator.look()
    assert coordinator.is_finished


def test_progress_counts_per_hop_and_source(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=2))
    workers.make(ShardTask(Hop.CAPTURE, "s1", 0))
    coordinator = workers.coordinator()
    coordinator.look()
    workers.start(ShardTask(Hop.ALIGN, "s1", 0))
    workers.fail(ShardTask(Hop.CAPTURE, "s0", 0))
    progress = coordinator.look()
    by = {(hop.hop, hop.source): hop for hop in progress.hops}
    s1 = by[Hop.CAPTURE, "s1"]
    assert (s1.done, s1.total, s1.bytes) == (1, 2, len("capture-s1-00000"))
    assert by[Hop.ALIGN, "s1"].running == 1
    assert by[Hop.CAPTURE, "s0"].failed == 1
    assert by[Hop.FUSE, ""].done == 0
    assert Progress.from_json(progress.to_json()) == progress


def test_a_broker_that_is_away_is_asked_again_at_the_next_look(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    workers.is_away = True
    coordinator = workers.coordinator()
    looks(workers, coordinator, 60)
    assert workers.queue == []
    workers.is_away = False
    coordinator.look()
    assert workers.queue == [CAPTURE]


def test_a_message_that_the_broker_lost_is_published_again_within_seconds(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    looks(workers, coordinator, 60)
    assert workers.queue == [CAPTURE], "a message that waits is not published again"
    workers.queue.clear()
    looks(workers, coordinator, 2 * Pace().lost_s + 1)
    assert workers.queue == [CAPTURE]


def test_a_broker_that_does_not_answer_has_lost_nothing_yet(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.queue.clear()
    workers.is_away = True
    looks(workers, coordinator, 60)
    workers.is_away = False
    looks(workers, coordinator, 4)
    assert workers.queue == []


def test_a_task_that_always_vanishes_is_asked_for_less_and_less_and_the_stores_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    asked = 0
    for _ in range(200):
        coordinator.look()
        asked += len(workers.queue)
        workers.queue.clear()
        workers.now += 1
    assert 3 <= asked <= 7
    assert "is their FUSERY_STORE the store" in caplog.text


def test_what_a_process_works_on_is_not_published_again_while_it_beats(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    name = workers.start(workers.queue.pop())
    for beat in range(2, 60):
        workers.beat(name, beat)
        assert looks(workers, coordinator, 5).hops[0].running == 1
    assert workers.queue == []


def test_a_beat_that_stands_still_is_an_attempt_and_the_task_is_published_again(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    name = workers.start(workers.queue.pop())
    progress = looks(workers, coordinator, Pace().silent_s + 5)
    assert workers.queue == [CAPTURE]
    assert progress.hops[0].failed == 1
    assert workers.store.read_note(name) is None
    [noted] = workers.store.list_notes(attempts_folder("r", "launch"))
    found = workers.store.read_note(noted)
    assert found is not None
    assert (found["error"], found["documents"]) == ("Killed", ["document of capture-s0-00000"])


@pytest.mark.parametrize("retry_was_seen", [True, False])
def test_what_a_retry_has_done_counts_before_the_killed_process_is_silent_for_long(
    tmp_path: Path, retry_was_seen: bool
) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.start(task := workers.queue.pop())
    coordinator.look()
    retry = workers.start(task)
    if retry_was_seen:
        coordinator.look()
    workers.make(task)
    workers.store.remove_note(retry)
    looks(workers, coordinator, 1 if retry_was_seen else 10)
    assert workers.queue == [ALIGN]


def test_a_zombie_that_finishes_after_its_retry_changes_nothing(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    name = workers.start(workers.queue.pop())
    looks(workers, coordinator, 30)
    workers.work()
    looks(workers, coordinator, 2)
    workers.beat(name, 2)
    workers.make(CAPTURE)
    progress = looks(workers, coordinator, 40)
    assert progress.hops[0].failed == 1
    assert (progress.hops[0].done, progress.hops[0].running) == (1, 0)


def test_a_shard_that_kills_its_process_again_and_again_is_given_up(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    for _ in range(MAX_ATTEMPTS):
        assert coordinator.look().dead_letters == ()
        workers.queue.clear()
        workers.start(CAPTURE)
        progress = looks(workers, coordinator, 30)
    [letter] = progress.dead_letters
    assert (letter.task, letter.documents) == (CAPTURE, ("document of capture-s0-00000",))
    assert "killed, stopped or lost" in letter.reason
    assert coordinator.is_finished


def test_a_restarted_coordinator_remembers_what_a_shard_did_to_its_processes(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    first = workers.coordinator()
    for _ in range(MAX_ATTEMPTS - 1):
        first.look()
        workers.start(CAPTURE)
        looks(workers, first, 30)
    second = workers.coordinator(("second", "launch"))
    assert second.look().dead_letters == ()
    workers.start(CAPTURE, "second")
    [letter] = looks(workers, second, 30).dead_letters
    assert letter.task == CAPTURE


def test_a_coordinator_that_takes_over_waits_for_the_processes_of_the_one_before(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    name = workers.start(CAPTURE)
    second = workers.coordinator(("second", "launch"))
    for beat in range(2, 10):
        workers.beat(name, beat)
        looks(workers, second, 5)
    assert workers.queue == []
    workers.make(CAPTURE)
    workers.store.remove_note(name)
    second.look()
    assert workers.queue == [ALIGN]


def test_a_launch_that_ended_is_forgotten_with_its_attempts(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    for _ in range(MAX_ATTEMPTS):
        workers.fail(CAPTURE)
    assert workers.coordinator(("new",)).look().dead_letters == ()
    assert len(workers.coordinator(("new", "launch")).look().dead_letters) == 1


def test_a_second_writer_with_other_bytes_does_not_fail_a_run_whose_shard_is_there(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    workers.make(CAPTURE)
    workers.fail(CAPTURE, retryable=False)
    assert workers.coordinator().look().dead_letters == ()


def test_a_note_of_a_failure_that_is_damaged_counts_as_a_failure(tmp_path: Path) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.fail(workers.queue.pop())
    [name] = workers.store.list_notes(attempts_folder("r", "launch"))
    (tmp_path / name).write_bytes(b"{")
    assert coordinator.look().hops[0].failed == 1


def test_two_coordinators_at_once_do_no_harm(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    one, two = workers.coordinator(("one",)), workers.coordinator(("two", "one"))
    for _ in range(20):
        one.look()
        two.look()
        workers.work()
        workers.now += 5
    assert one.is_finished
    assert two.is_finished
    assert one.progress().dead_letters == two.progress().dead_letters == ()


def test_an_error_of_the_store_loses_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator()
    coordinator.look()
    workers.fail(workers.queue.pop())
    with monkeypatch.context() as patch:
        patch.setattr(type(workers.store), "find", lambda *_: (_ for _ in ()).throw(Unavailable("the bucket is away")))
        with pytest.raises(Unavailable):
            coordinator.look()
    assert coordinator.look().hops[0].failed == 1
    assert coordinator.look().hops[0].failed == 1


@settings(max_examples=30)
@given(shards=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_the_table_finishes_exactly_when_nothing_is_left_that_can_be_done(shards: int, seed: int) -> None:
    chance = random.Random(seed)
    one = ShardTable(plan(sources=2, shards=shards))
    given_up: set[ShardTask] = set()
    for _ in range(5 * shards + 1):
        ready = [task for hop in Hop for task in one.ready(hop, {"s0": 99, "s1": 99, "": 99})]
        assert one.is_finished() == (not ready)
        for task in ready:
            if chance.random() < 0.2:
                one.set_dead(task)
                given_up.add(task)
            else:
                one.set_done(task, 1)
    blocked = {
        task
        for task in one.plan.tasks
        if task in given_up or any(need in given_up or not one.is_done(need) for need in one.plan.needs(task))
    }
    assert {task for task in one.plan.tasks if not one.is_done(task)} == blocked


@pytest.mark.parametrize(("look_s", "pause_s"), [(0.0, 0.5), (0.6, 0.6), (9.0, 9.0), (201.0, 10.0)])
def test_a_look_that_took_long_is_followed_by_a_pause_and_by_no_sleep(look_s: float, pause_s: float) -> None:
    """The machine may have stood still meanwhile; what is due then is due at once."""
    assert execution._pause_s(Pace(), look_s) == pause_s


@pytest.mark.parametrize(("listing_s", "pause_s"), [(0.1, 30.0), (2.0, 40.0), (201.0, 600.0)])
def test_a_listing_that_took_long_is_repeated_within_ten_minutes(
    listing_s: float, pause_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = one_shard(tmp_path)
    coordinator = workers.coordinator(until=Hop.CAPTURE)
    listed = workers.store.listed
    times: list[float] = []

    def slow(folder: str) -> Mapping[str, int]:
        workers.now += listing_s
        times.append(workers.now)
        return listed(folder)

    monkeypatch.setattr(workers.store, "listed", slow)
    coordinator.look()
    rows = len(times)
    workers.now += pause_s - 0.01
    coordinator.look()
    assert len(times) == rows
    workers.now += 0.02
    coordinator.look()
    assert len(times) == 2 * rows
