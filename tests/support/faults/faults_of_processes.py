"""Faults of processes: workers, their children, sources and coordinators are killed, told to stop, or held."""

from __future__ import annotations

import signal
import time

from support.faults.fault_kinds import fault
from support.faults.fault_processes import Source, Worker, is_alive, send, shifted_clock, state_of, wait_until
from support.faults.fault_scene import AtWork, Scene
from support.faults.fault_source import Orders


def _pools(scene: Scene) -> list[int]:
    return [pid for worker in scene.rig.workers if worker.is_running for pid in worker.pool()]


def _strike(scene: Scene, number: int, pids: list[int] | None = None) -> AtWork:
    """Signals a process in the middle of a task, and says which; one that was done that moment does not count."""
    while True:
        work = scene.busy(pids or _pools(scene))
        send(work.pid, number)
        wait_until(lambda pid=work.pid: state_of(pid) in ("", "Z", "T"), 10, f"the signal to reach {work.pid}")
        if not scene.is_done(work.key):
            return work
        send(work.pid, signal.SIGCONT)


def _worker_of(scene: Scene, pid: int) -> Worker:
    return next(worker for worker in scene.rig.workers if worker.is_running and pid in worker.pool())


@fault("child-killed", "kill -9 of the process that works on a shard", goal_s=5)
def child_killed(scene: Scene) -> None:
    scene.begin()
    scene.at_moment()
    work = _strike(scene, signal.SIGKILL)
    assert not is_alive(work.pid)
    scene.recovered(work.key)
    scene.expect_done(scene.finish())


@fault("worker-killed", "kill -9 of a worker with its child; another one lives", goal_s=60, spoils_workers=True)
def worker_killed(scene: Scene) -> None:
    scene.begin()
    scene.at_moment()
    work = _kill_worker(scene)
    scene.recovered(work.key)
    scene.expect_done(scene.finish())


@fault("only-worker-killed", "kill -9 of the only worker, started again after 3 s", goal_s=60, spoils_workers=True)
def only_worker_killed(scene: Scene) -> None:
    scene.rig.workers[1].kill()
    scene.begin()
    scene.at_moment()
    work = _kill_worker(scene)
    time.sleep(3)
    assert not scene.is_done(work.key)
    scene.rig.workers[0].start()
    scene.recovered(work.key)
    scene.expect_done(scene.finish())


def _kill_worker(scene: Scene) -> AtWork:
    """The task that a worker was in the middle of. It is held first, so that the task is not done meanwhile."""
    work = _strike(scene, signal.SIGSTOP)
    worker = _worker_of(scene, work.pid)
    worker.kill()
    assert not worker.is_running
    assert not is_alive(work.pid)
    return work


@fault("worker-terminated", "SIGTERM of the only worker in the middle of a shard, started again at once", goal_s=60)
def worker_terminated(scene: Scene) -> None:
    scene.rig.workers[1].kill()
    scene.begin()
    scene.at_moment()
    worker = scene.rig.workers[0]
    scene.busy(worker.pool())
    send(worker.pid, signal.SIGTERM)
    assert worker.wait(60) == 0, worker.last_words()
    worker.start()
    scene.recovered()
    scene.expect_done(scene.finish())
    assert not scene.failed_attempts(), "a worker that was told to stop let a task fail"


@fault("zombie", "a process is stopped, its shard made by another one, then it goes on", goal_s=60, spoils_workers=True)
def zombie(scene: Scene) -> None:
    scene.begin()
    scene.at_moment()
    work = _strike(scene, signal.SIGSTOP)
    scene.recovered(work.key)
    assert state_of(work.pid) == "T"
    worker, line = _worker_of(scene, work.pid), f"{work.key} of run {scene.run_id} is done"
    assert line not in worker.log.read_text(), "the stopped process had finished"
    send(work.pid, signal.SIGCONT)
    wait_until(lambda: line in worker.log.read_text(), 60, "the zombie to finish")
    scene.expect_done(scene.finish())


def _order_signal(scene: Scene, number: int) -> Source:
    """A source that has just sent itself a signal between two messages of an answer."""
    name = scene.chance.choice(sorted(scene.rig.sources))
    source = scene.rig.sources[name]
    scene.at_moment(1, 8)
    happened = source.order_fault(signal=number, message=scene.chance.randint(1, 6))
    wait_until(happened.exists, 60, f"{name} to be in the middle of an answer")
    return source


def _waiting_for(scene: Scene, source: Source) -> AtWork:
    """A task that needs an answer of the source."""
    return next(work for work in scene.at_work() if f"-{source.name}-" in work.key)


@fault("source-killed", "kill -9 of a source in the middle of an answer, started again at its port", goal_s=60)
def source_killed(scene: Scene) -> None:
    scene.begin()
    source = _order_signal(scene, signal.SIGKILL)
    assert source.wait(10) == -signal.SIGKILL
    work = _waiting_for(scene, source)
    source.start()
    source.wait_ready()
    scene.recovered(work.key)
    scene.expect_done(scene.finish())


@fault("source-terminated", "SIGTERM of a source in the middle of an answer, started again at its port", goal_s=60)
def source_terminated(scene: Scene) -> None:
    scene.begin()
    source = _order_signal(scene, signal.SIGTERM)
    assert source.wait(30) == 0, source.last_words()
    source.start()
    source.wait_ready()
    scene.recovered()
    scene.expect_done(scene.finish())


@fault("source-stopped", "SIGSTOP of a source in the middle of an answer, SIGCONT 2 to 6 s later", goal_s=60)
def source_stopped(scene: Scene) -> None:
    scene.begin()
    source = _order_signal(scene, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(source.pid) == "T", 10, "the source to stop")
        time.sleep(scene.chance.uniform(2, 6))
        # Looked up now: a task that had all its answers when the source stopped is done by now.
        work = _waiting_for(scene, source)
    finally:
        send(source.pid, signal.SIGCONT)
    scene.recovered(work.key)
    scene.expect_done(scene.finish())


@fault("source-slow", "a source becomes ten times slower")
def source_slow(scene: Scene) -> None:
    scene.begin()
    scene.at_moment(1, 6)
    name = scene.chance.choice(sorted(scene.rig.sources))
    scene.rig.sources[name].order(Orders(pause_s=10 * Orders().pause_s))
    left = sum(key.startswith(f"capture-{name}-") for key in scene.missing())
    began = time.monotonic()
    ended = scene.finish()
    # At least two requests a shard, one after the other in the source.
    assert left > 0
    assert time.monotonic() - began > (left - 2) * 2 * 10 * Orders().pause_s, "the source was not slow"
    scene.expect_done(ended)


@fault("coordinator-killed", "kill -9 of the coordinator; the same command again", goal_s=60)
def coordinator_killed(scene: Scene) -> None:
    first = scene.begin()
    scene.at_moment()
    first.kill()
    assert first.exit_code == -signal.SIGKILL
    assert scene.missing()
    scene.begin()
    scene.recovered(unpublished=True)
    scene.expect_done(scene.finish())


@fault("coordinator-followed", "kill -9 of the coordinator while a second one follows, which takes over", goal_s=60)
def coordinator_followed(scene: Scene) -> None:
    first = scene.begin()
    scene.at_moment(1, 6)
    scene.begin()
    scene.at_moment(8, 24)
    first.kill()
    assert first.exit_code == -signal.SIGKILL
    scene.recovered(unpublished=True)
    scene.expect_done(scene.finish())


@fault("two-coordinators", "two coordinators of one run from the start")
def two_coordinators(scene: Scene) -> None:
    one, other = scene.begin(), scene.begin()
    scene.at_moment()
    assert one.is_running
    assert other.is_running
    ended = scene.finish(one), scene.finish(other)
    for each in ended:
        scene.expect_done(each)


@fault("worker-clock", "the clock of a worker is an hour ahead or behind", new_workers=True, spoils_workers=True)
def worker_clock(scene: Scene) -> None:
    environment, witness = shifted_clock(scene.folder, scene.chance.choice((-3600.0, 3600.0)))
    started = set()
    for number in scene.chance.choice(((0,), (1,), (0, 1))):
        scene.rig.workers[number].kill()
        worker = scene.rig.new_worker(number, environment)
        worker.start()
        worker.wait_ready()
        started.add(str(worker.pid))
    scene.begin()
    ended = scene.finish()
    # Children are forks of their worker, with its clock.
    assert started <= set(witness.read_text().split()), "a worker does not have the wrong clock"
    scene.rig.usual_workers()
    scene.expect_done(ended)


@fault("coordinator-clock", "the clock of the coordinator is an hour ahead or behind")
def coordinator_clock(scene: Scene) -> None:
    environment, witness = shifted_clock(scene.folder, scene.chance.choice((-3600.0, 3600.0)))
    first = scene.begin(environment=environment)
    scene.at_moment()
    assert str(first.pid) in witness.read_text().split()
    # Killed as well: the next one's clock is right, and it finds the notes of a wrong one.
    first.kill()
    scene.begin()
    scene.recovered(unpublished=True)
    scene.expect_done(scene.finish())
