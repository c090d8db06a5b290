"""A hop whose shards fail one after the other with an error that no retry helps is not tried to the last shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.hops.plan import Hop, ShardTask
from fusery.run.coordinator.coordinator import Coordinator
from fusery.run.coordinator.progress import Progress
from support.runs.coordinator_workers import Workers, plan

SHARDS = 50


def carry_out(workers: Workers, coordinator: Coordinator, wrong: str | None, hop: Hop = Hop.CAPTURE) -> Progress:
    """One message at a time is worked on; those of `hop` and the source `wrong` are refused."""
    for _ in range(4 * SHARDS):
        progress = coordinator.look()
        if coordinator.is_finished:
            return progress
        if workers.queue:
            task = workers.queue.pop(0)
            if task.hop is hop and task.source == wrong:
                workers.fail(task, "Mismatch", retryable=False)
            else:
                workers.make(task)
    raise AssertionError("the run does not end")


@pytest.mark.parametrize("hop", [Hop.CAPTURE, Hop.ALIGN])
def test_a_hop_stops_after_its_first_shards_and_the_other_sources_go_on(tmp_path: Path, hop: Hop) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=SHARDS))
    progress = carry_out(workers, workers.coordinator(), "s0", hop)
    assert [letter.task for letter in progress.dead_letters][:3] == [ShardTask(hop, "s0", shard) for shard in range(3)]
    tried = len(progress.dead_letters)
    assert tried < SHARDS / 2, "only what waited at the broker already was tried after the third"
    stopped = next(row for row in progress.hops if (row.hop, row.source) == (hop, "s0"))
    assert (stopped.dead, stopped.untried) == (tried, f"{tried}-{SHARDS - 1}")
    assert all(row.done == SHARDS for row in progress.hops if row.source == "s1")
    assert f"not tried: shards {tried}-{SHARDS - 1}" in progress.what_failed
    assert f"  {hop.value}-s0-00000: {hop.value}-s0-00000 broke (at work on: document 1)" in progress.what_failed
    assert Progress.from_json(progress.to_json()) == progress


def test_the_same_run_takes_the_hop_up_when_the_cause_is_mended(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=2, shards=SHARDS))
    carry_out(workers, workers.coordinator(), "s0")
    workers.queue.clear()
    assert carry_out(workers, workers.coordinator(("second",)), None).finished


def test_failures_of_a_launch_whose_coordinator_was_killed_do_not_stop_the_next_one(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=SHARDS))
    for shard in range(3):
        workers.fail(ShardTask(Hop.CAPTURE, "s0", shard), "Mismatch", retryable=False, launch="killed")
    progress = carry_out(workers, workers.coordinator(("second", "killed")), None)
    assert [row.untried for row in progress.hops] == ["", "", ""]
    assert progress.hops[0].done == SHARDS - 3


def test_shards_that_fail_between_others_that_succeed_stop_nothing(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=12))
    coordinator = workers.coordinator(until=Hop.CAPTURE)
    while not coordinator.is_finished:
        progress = coordinator.look()
        for task in [workers.queue.pop(0) for _ in workers.queue[:1]]:
            workers.fail(task, "TooLarge", retryable=False) if task.shard % 3 else workers.make(task)
    assert (progress.hops[0].done, len(progress.dead_letters)) == (4, 8)


def test_a_shard_under_way_may_prove_that_the_first_ones_were_bad_themselves(tmp_path: Path) -> None:
    workers = Workers(tmp_path, plan(sources=1, shards=40))
    coordinator = workers.coordinator(max_in_flight=4, until=Hop.CAPTURE)
    coordinator.look()
    note = workers.start(slow := workers.queue.pop())
    coordinator.look()
    for task in [workers.queue.pop(0) for _ in range(3)]:
        workers.fail(task, "TooLarge", retryable=False)
    coordinator.look()
    assert workers.queue == [], "nothing more is published"
    assert not coordinator.is_finished, "the last one is still under way"
    workers.make(slow)
    workers.store.remove_note(note)
    progress = carry_out(workers, coordinator, None)
    assert (progress.hops[0].done, progress.hops[0].untried) == (37, "")
