from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.formats.store import Store
from fusery.pipeline.coordinator import MAX_ATTEMPTS, Coordinator
from fusery.run_config import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.worker.plan import Hop, Plan, PlannedSource, ShardTask, attempts_folder, started_folder


def plan(sources: int = 2, shards: int = 3) -> Plan:
    return Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=shards,
        target_tokenizer_fingerprint="t" * 64,
        sources=tuple(
            PlannedSource(
                name=f"s{i}", model_fingerprint=f"{i}" * 64, tokenizer_fingerprint="f" * 64, vocabulary_size=99
            )
            for i in range(sources)
        ),
        capture=CaptureSpec(top_k=4),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )


class Workers:
    """Stands for broker and workers: does some of what it is given, loses or fails the rest."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.store, self.plan = Store(str(folder)), plan
        self.queue: list[ShardTask] = []
        self.coordinator = self.new_coordinator()
        self.notes = 0

    def new_coordinator(self, **settings: float) -> Coordinator:
        return Coordinator(self.store, self.plan, self.take, "launch", **settings)  # type: ignore[arg-type]

    def take(self, task: ShardTask) -> bool:
        self.queue.append(task)
        return True

    def make(self, task: ShardTask) -> None:
        for need in self.plan.needs(task):
            assert self.store.find(self.plan.artefact(need)), f"{task.key} was published before {need.key} was there"
        self.store.publish(self.plan.artefact(task), task.key.encode(), {"tokens": 10})

    def fail(self, task: ShardTask, retryable: bool = True) -> None:
        self.notes += 1
        note = {"task": task.key, "reason": f"{task.key} broke", "error": "E", "retryable": retryable}
        self.store.write_note(f"{attempts_folder('r', 'launch')}/{self.notes}.json", note)


def test_a_plan_names_every_shard_of_every_hop_once() -> None:
    tasks = plan(sources=2, shards=3).tasks
    assert len(tasks) == len(set(tasks)) == 2 * 3 + 2 * 3 + 3
    names = [plan().artefact(task) for task in tasks]
    assert len(set(names)) == len(names)


def test_a_capture_is_named_by_source_corpus_and_capture_settings_alone() -> None:
    one = plan()
    other = one.model_copy(update={"target_tokenizer_fingerprint": "u" * 64, "run_id": "q"})
    for task in one.tasks:
        same = one.artefact(task) == other.artefact(task)
        assert same is (task.hop is Hop.CAPTURE)
    more = one.model_copy(update={"capture": CaptureSpec(top_k=5)})
    assert all(one.artefact(task) != more.artefact(task) for task in one.tasks)


@given(seed=st.integers(0, 10_000), loss=st.floats(0, 0.6))
def test_whatever_is_lost_or_delivered_twice_everything_gets_done(
    tmp_path_factory: pytest.TempPathFactory, seed: int, loss: float
) -> None:
    chance = random.Random(seed)
    workers = Workers(tmp_path_factory.mktemp("store"), plan())
    coordinator = workers.new_coordinator(lost_after_s=0.0, max_in_flight=4)
    for _ in range(400):
        progress = coordinator.step()
        if coordinator.finished():
            break
        for task in workers.queue:
            for _delivery in range(chance.choice([1, 1, 2])):
                if chance.random() >= loss:
                    workers.make(task)
        workers.queue.clear()
        if chance.random() < 0.1:
            coordinator = workers.new_coordinator(lost_after_s=0.0, max_in_flight=4)
    assert progress.finished
    assert not progress.dead_letters
    assert set(coordinator.entries) == set(workers.plan.tasks)


def test_a_second_coordinator_publishes_only_what_is_missing(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=2))
    for task in workers.plan.tasks[:3]:
        workers.make(task)
    workers.new_coordinator().step()
    assert workers.queue == [ShardTask(Hop.FUSE, "", 0), ShardTask(Hop.ALIGN, "s0", 1)]


def test_all_sources_get_work_at_the_same_time(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=3))
    workers.new_coordinator(max_in_flight=4).step()
    assert [(task.source, task.shard) for task in workers.queue] == [("s0", 0), ("s1", 0), ("s0", 1), ("s1", 1)]


def test_no_more_than_the_bound_is_under_way_and_nothing_is_published_twice(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan())
    coordinator = workers.new_coordinator(max_in_flight=2)
    for _ in range(3):
        coordinator.step()
    assert len(workers.queue) == 2
    coordinator.forget_in_flight()
    coordinator.step()
    assert len(workers.queue) == 4


def test_a_shard_that_fails_three_times_is_a_dead_letter_and_the_rest_is_done(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan())
    poison = ShardTask(Hop.CAPTURE, "s1", 1)
    coordinator = workers.coordinator
    for _ in range(30):
        progress = coordinator.step()
        if coordinator.finished():
            break
        for task in list(workers.queue):
            workers.queue.remove(task)
            workers.fail(task) if task == poison else workers.make(task)
    assert [letter.task for letter in progress.dead_letters] == [poison]
    assert progress.dead_letters[0].reason == f"{poison.key} broke"
    assert workers.notes == MAX_ATTEMPTS
    missing = set(workers.plan.tasks) - set(coordinator.entries)
    assert missing == {poison, ShardTask(Hop.ALIGN, "s1", 1), ShardTask(Hop.FUSE, "", 1)}
    assert not progress.finished


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    workers.coordinator.step()
    workers.fail(workers.queue.pop(), retryable=False)
    progress = workers.coordinator.step()
    assert len(progress.dead_letters) == 1
    assert workers.coordinator.finished()
    assert workers.queue == []


def test_a_discarded_artefact_is_made_again(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    [capture, align, _] = workers.plan.tasks
    workers.make(capture)
    workers.coordinator.step()
    assert workers.queue == [align]
    workers.store.discard(workers.plan.artefact(capture))
    workers.fail(align)
    workers.coordinator.step()
    assert workers.queue[-1] == capture


def test_progress_counts_per_hop_and_source(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=2))
    workers.make(ShardTask(Hop.CAPTURE, "s1", 0))
    progress = workers.coordinator.step()
    by = {(hop.hop, hop.source): hop for hop in progress.hops}
    assert (by[Hop.CAPTURE, "s1"].done, by[Hop.CAPTURE, "s1"].total, by[Hop.CAPTURE, "s1"].tokens) == (1, 2, 10)
    assert by[Hop.ALIGN, "s1"].running == 1
    assert by[Hop.FUSE, ""].done == 0


def test_a_broker_that_is_away_is_asked_again_at_the_next_look(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    answers = [False, True]
    coordinator = Coordinator(workers.store, workers.plan, lambda task: answers.pop(0) and workers.take(task), "launch")
    assert coordinator.step().hops[0].running == 0
    assert coordinator.step().hops[0].running == 1
    assert len(workers.queue) == 1


def test_a_second_writer_with_other_bytes_does_not_fail_a_run_whose_shard_is_there(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    capture = workers.plan.tasks[0]
    workers.make(capture)
    workers.fail(capture, retryable=False)
    assert workers.coordinator.step().dead_letters == ()


def test_a_shard_that_kills_its_process_again_and_again_is_given_up(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=1))
    capture = workers.plan.tasks[0]
    for attempt in range(MAX_ATTEMPTS + 1):
        assert workers.coordinator.step().dead_letters == ()
        workers.store.write_note(f"{started_folder('r', 'launch')}/{capture.key}.{attempt}.json", {"task": capture.key})
    [letter] = workers.coordinator.step().dead_letters
    assert (letter.task, "were killed" in letter.reason) == (capture, True)
    assert workers.coordinator.finished()
