"""Creates the objects of a run or of a step, once: what goes on is taken up, what failed is made anew.

Names are functions of the run's YAML, so the API itself says whether the job was made before: the same command, given
twice or by a process that was killed and started again, leads to one Job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from fusery.cluster.api import states
from fusery.cluster.api.api import Cluster
from fusery.cluster.api.errors import POD, AlreadyThere, Object, Place
from fusery.cluster.api.follow import Kind, Outcome, Say, name_of, outcome_of, pods_of
from fusery.cluster.api.states import State
from fusery.runtime.errors import FuseryError, GateFailed, Mismatch, Overloaded, Unavailable
from fusery.runtime.retry import RetryPolicy, retry

Result = TypeVar("Result")

_RUN_LABEL = "fusery/run"
_ROUNDS = 5
_GONE_S = 600.0
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Launched:
    """The Job that is to be followed. `is_new`: made by this call; `outcome`: it has ended already."""

    place: Place
    name: str
    is_new: bool
    outcome: Outcome | None = None


def launch(cluster: Cluster, objects: Sequence[Object], say: Say, keeps_done: bool = True) -> Launched:
    """The Job of `objects`, their last one: created with the others, or taken up where it stands.

    `keeps_done`: a Job that has ended well (or whose run did not pass its gate) is left as it is; else it is made anew.

    Raises:
        Mismatch: it goes on with another YAML, or an object of that name belongs to something else.
        Unavailable: the API does not answer; or another process creates and deletes the same objects.
    """
    job = objects[-1]
    for _ in range(_ROUNDS):
        found = _standing(cluster, job)
        if found is not None:
            _check_ours(cluster, found, job)
            launched = _taken_up(cluster, objects, found, keeps_done)
            if launched is not None:
                return launched
            state, reason = states.state_of(found)
            ended = "has ended" if state is State.DONE else f"failed ({reason or 'its pods say no more'})"
            say(Kind.STATE, f"{_shown(found)} {ended}; it is deleted and started again")
            cluster.delete(Place.of(job), name_of(job))
            continue
        try:
            for part in objects[:-1]:
                _put(cluster, part)
            cluster.create(job)
            return Launched(Place.of(job), name_of(job), True)
        except AlreadyThere:
            # Another process at the same moment: what it made is looked at anew.
            continue
    raise Unavailable(
        f"{_shown(job)} in namespace {cluster.namespace}: another process creates and deletes it at the same time; "
        "see who with kubectl get events, then give the same command again"
    )


def _taken_up(cluster: Cluster, objects: Sequence[Object], found: Object, keeps_done: bool) -> Launched | None:
    """What is there; None: it has to be made anew."""
    job = objects[-1]
    place, name = Place.of(job), name_of(job)
    is_same = _does_the_same(cluster, objects, found)
    state, reason = states.state_of(found)
    if state in (State.ACTIVE, State.SUSPENDED):
        if not is_same:
            raise Mismatch(
                f"{_shown(job)} in namespace {cluster.namespace} goes on with another YAML or other options of this "
                f"run; follow it with those, or stop it first: {deletion(cluster, objects)}"
            )
        return Launched(place, name, False)
    if not is_same or not keeps_done:
        return None
    outcome = outcome_of(cluster, state, reason, cluster.list(POD, labelSelector=pods_of(place, name)).items)
    is_final = outcome.succeeded or outcome.exit_code == GateFailed.exit_code
    return Launched(place, name, False, outcome) if is_final else None


def _standing(cluster: Cluster, manifest: Object) -> Object | None:
    """The object of a manifest, once it is no longer on its way out.

    Raises:
        Unavailable: it stays in between.
    """
    deadline = time.monotonic() + _GONE_S
    while (found := cluster.get(Place.of(manifest), name_of(manifest))) is not None:
        if not states.is_being_deleted(found):
            return found
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{_shown(manifest)} in namespace {cluster.namespace} is being deleted for {_GONE_S:.0f} s and is "
                f"still there; its finalizers say who waits: {found['metadata'].get('finalizers', [])}"
            )
        time.sleep(0.5)
    return None


def _check_ours(cluster: Cluster, found: Object, manifest: Object) -> None:
    wanted = manifest["metadata"].get("labels", {}).get(_RUN_LABEL)
    got = found["metadata"].get("labels", {}).get(_RUN_LABEL)
    if got != wanted:
        raise Mismatch(
            f"{_shown(manifest)} in namespace {cluster.namespace} is not of this run: its label {_RUN_LABEL} is "
            f"{got!r}, expected {wanted!r}; delete it, or give the run another name"
        )


def _does_the_same(cluster: Cluster, objects: Sequence[Object], found: Object) -> bool:
    """Whether a Job that is there has our commands, and the objects beside it our YAML."""
    if Place.of(found).kind == "Job":
        # Other kinds are told by their YAML alone.
        got, wanted = (
            [box.get("args") for box in job["spec"]["template"]["spec"]["containers"]] for job in (found, objects[-1])
        )
        if got != wanted:
            return False
    for part in objects[:-1]:
        there = cluster.get(Place.of(part), name_of(part)) if "data" in part else None
        if there is not None and there.get("data") != part["data"]:
            return False
    return True


def _put(cluster: Cluster, part: Object) -> None:
    """Makes what a Job needs. An older one goes: it may belong to a Job that is deleted, and go with it later."""
    found = _standing(cluster, part)
    if found is not None:
        _check_ours(cluster, found, part)
        cluster.delete(Place.of(part), name_of(part))
        _standing(cluster, part)
    cluster.create(part)


def rehearse(cluster: Cluster, objects: Sequence[Object]) -> None:
    """Returns if the cluster would take the objects; makes nothing.

    Raises:
        NotAllowed, ConfigError, InvalidInput: what it refuses, and why.
    """
    for manifest in objects:
        # What is there already, and a quota that is full now, need not be so when the time comes.
        with suppress(AlreadyThere, Overloaded):
            cluster.create(manifest, is_rehearsal=True)


def patiently(action: Callable[[], Result], say: Say, patience_s: float = _PATIENCE_S, pause_s: float = 1.0) -> Result:
    """What `action` gives, tried again while the API does not answer or a quota is full.

    Raises:
        Unavailable: for longer than `patience_s`.
    """
    said: set[str] = set()

    def failed(error: FuseryError, _: float) -> None:
        if str(error) not in said:
            said.add(str(error))
            say(Kind.TROUBLE, f"{error}; trying again for {patience_s / 60:.0f} minutes")

    policy = RetryPolicy(pause_s, 30.0, for_s=patience_s)
    return retry(action, policy, lambda error: isinstance(error, Unavailable), failed)


def deletion(cluster: Cluster, objects: Sequence[Object]) -> str:
    """The command that deletes the objects, and with them the jobs that belong to them."""
    return f"kubectl --namespace {cluster.namespace} delete {' '.join(_shown(found) for found in reversed(objects))}"


def _shown(found: Object) -> str:
    return f"{Place.of(found)}/{name_of(found)}"
