"""Faults of the broker: restarted with and without what it knew, emptied, unreachable; messages that come twice."""

from __future__ import annotations

import signal
import time

from support.faults.fault_kinds import fault
from support.faults.fault_processes import send, state_of, wait_until
from support.faults.fault_scene import Scene

AWAY_S = 30.0
"""How long the broker is unreachable; a short suite sets less."""


def _restart(scene: Scene, *, persistent: bool) -> None:
    broker = scene.rig.broker
    wait_until(lambda: broker.waiting() > 0, 30, "messages in the broker")
    broker.kill()
    assert broker.exit_code == -signal.SIGKILL
    time.sleep(scene.chance.uniform(0.5, 3))
    broker.start_as(persistent)


@fault(
    "broker-restarted",
    "kill -9 of a broker with persistence, back after 0.5 to 3 s",
    goal_s=60,
    spoils_workers=True,
)
def broker_restarted(scene: Scene) -> None:
    scene.rig.restart_broker(persistent=True)
    try:
        scene.begin()
        scene.at_moment()
        _restart(scene, persistent=True)
        scene.recovered()
        scene.expect_done(scene.finish())
    finally:
        scene.rig.restart_broker(persistent=False)


@fault(
    "broker-restarted-empty",
    "kill -9 of a broker without persistence, back after 0.5 to 3 s",
    goal_s=60,
    spoils_workers=True,
)
def broker_restarted_empty(scene: Scene) -> None:
    scene.begin()
    scene.at_moment()
    _restart(scene, persistent=False)
    scene.recovered()
    scene.expect_done(scene.finish())


@fault("broker-flushed", "FLUSHALL while messages wait and are worked on", goal_s=60)
def broker_flushed(scene: Scene) -> None:
    scene.begin()
    scene.at_moment()
    broker = scene.rig.broker
    wait_until(lambda: broker.waiting() > 2, 30, "messages in the broker")
    lost = broker.waiting()
    broker.client.flushall()
    scene.notes.append(f"{lost} messages lost")
    scene.recovered()
    scene.expect_done(scene.finish())


@fault("broker-unreachable", "the broker is stopped (SIGSTOP) for half a minute", goal_s=60, spoils_workers=True)
def broker_unreachable(scene: Scene) -> None:
    scene.begin()
    scene.at_moment()
    pid = scene.rig.broker.pid
    send(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(pid) == "T", 10, "the broker to stop")
        time.sleep(AWAY_S)
    finally:
        send(pid, signal.SIGCONT)
    assert scene.missing(), "the run needed no broker"
    scene.recovered()
    scene.expect_done(scene.finish())


@fault("delivered-twice", "every message is delivered twice")
def delivered_twice(scene: Scene) -> None:
    scene.begin("twice")
    ended = scene.finish()
    messages = (scene.folder / "twice.txt").read_text().split()
    assert len(messages) >= len(scene.plan.tasks)
    scene.expect_done(ended)
