"""Follows a Job (a JobSet, a TrainJob) to its end: what its pods do and wait for, in words, and how it ended.

What keeps a pod from running is said: a node that is not there, an image that can't be pulled,
a Secret that is missing. It is said again every ten minutes, and waited for: such things are mended from outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from fusery.cluster.api import states
from fusery.cluster.api.api import Cluster
from fusery.cluster.api.errors import EVENT, JOB, POD, Object, Place
from fusery.cluster.api.states import State
from fusery.cluster.api.watches import PACE, Feeds, Pace, Reader
from fusery.runtime.errors import FuseryError, Unavailable

_ENDS = (State.DONE, State.FAILED)
_LAST_LINES = 12
_LAST_WAIT_S = 10.0
_ASKED_PODS = 4
"""Of a training on many nodes that all wait for the same thing."""


class Kind(StrEnum):
    """What a line that is said is about."""

    STATE = "state"
    TROUBLE = "trouble"
    LOG = "log"


Say = Callable[[Kind, str], None]


class Deleted(FuseryError):
    """The Job that was followed was deleted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a Job ended. `exit_code`: of its pod, where there is one to be asked; `last_lines`: of its log."""

    succeeded: bool
    reason: str
    exit_code: int | None
    last_lines: tuple[str, ...]
    why: str = ""
    """What the pod says of its end."""


@dataclass(slots=True)
class Follower:
    """Follows one Job; `look` is called again and again. Use as a context manager.

    `tail`: show the log of its pod, from so many lines before its end on (0: all of it); None: do not show it.
    """

    cluster: Cluster
    place: Place
    name: str
    say: Say
    tail: int | None = None
    pace: Pace = PACE
    _feeds: Feeds = field(init=False)
    _job: Object | None = None
    _pods: dict[str, Object] = field(default_factory=dict)
    _readers: dict[str, Reader] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)
    _troubles: dict[str, float] = field(default_factory=dict)
    _asked_at: float = 0.0

    def __enter__(self) -> Follower:
        self._feeds = Feeds(self.cluster, self._broken, self.pace)
        self._asked_at = time.monotonic()
        self._feeds.objects(self.place, self._see_job, fieldSelector=f"metadata.name={self.name}")
        self._feeds.objects(POD, self._see_pods, labelSelector=pods_of(self.place, self.name))
        return self

    def __exit__(self, *exit_: object) -> None:
        self._feeds.__exit__(*exit_)

    def look(self, wait_s: float) -> Outcome | None:
        """Says what has happened, after at most `wait_s` of waiting for it; how the Job ended, when it has.

        Raises:
            Deleted: the Job is gone.
            NotAllowed: the account may not read what it must.
        """
        self._feeds.take(wait_s)
        if self._job is None:
            return None
        self._speak(self._job)
        state, reason = states.state_of(self._job)
        if state in _ENDS:
            return self._end(state, reason)
        self._ask_events()
        return None

    def _broken(self, error: FuseryError, is_over: bool) -> None:
        if is_over:
            raise error
        self._trouble("", f"{error}; trying again")

    def _see_pods(self, pods: dict[str, Object], _gone: Object | None) -> None:
        self._pods = pods

    def _see_job(self, jobs: dict[str, Object], gone: Object | None) -> None:
        """Takes what is known of the Job. One that has ended may be deleted before it is looked at: its end stays.

        Raises:
            Deleted: it is gone, and had not ended.
        """
        if self._has_ended:
            return
        self._job = jobs.get(self.name) or gone or self._job
        if not jobs and not self._has_ended:
            raise Deleted(f"{self._shown} in namespace {self.cluster.namespace} was deleted")

    @property
    def _has_ended(self) -> bool:
        return self._job is not None and states.state_of(self._job)[0] in _ENDS

    @property
    def _shown(self) -> str:
        return f"{self.place}/{self.name}"

    def _speak(self, job: Object) -> None:
        if states.state_of(job)[0] is State.SUSPENDED:
            queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
            why = f"waits in queue {queue} until Kueue admits it" if queue else "is suspended (spec.suspend)"
            self._state(self._shown, why)
        else:
            self._states.pop(self._shown, None)
        for name, pod in sorted(self._pods.items()):
            said = states.of_pod(pod)
            if said.is_trouble:
                self._trouble(f"pod {name}", said.text, said.about, is_end=said.is_end)
            else:
                self._state(f"pod {name}", said.text)
        self._state(f"{self._shown}:", states.of_nodes(job, list(self._pods.values())))
        for reader in self._readers.values():
            if reader.pod not in self._pods or states.exit_code(self._pods[reader.pod]) is not None:
                reader.has_ended.set()
        shown = states.newest(list(self._pods.values()))
        if self.tail is not None and shown is not None:
            self._read(shown)

    def _read(self, pod: Object) -> None:
        name = name_of(pod)
        if name in self._readers or not pod.get("status", {}).get("containerStatuses"):
            return

        def silent(error: FuseryError) -> None:
            # The log of a pod that is gone is not missed.
            if name in self._pods:
                self._trouble(f"pod {name}", f"its log can't be read: {error}")

        # Pods that came after the first are all news.
        tail = self.tail if self.tail and not self._readers else None
        reader = Reader(name, container_of(pod), tail, partial(self.say, Kind.LOG), silent)
        self._readers[name] = reader
        self._feeds.log(reader)

    def _state(self, subject: str, text: str) -> None:
        if self._states.get(subject, "") != text:
            self._states[subject] = text
            if text:
                self.say(Kind.STATE, f"{subject} {text}".strip())

    def _trouble(self, subject: str, text: str, about: str = "", *, is_end: bool = False) -> None:
        """Says what is wrong. What keeps one pod waits for the next one too; only the end of each is news."""
        said = f"{subject} {about or text}"
        key = said if is_end else states.likeness(said, self.name)
        now = time.monotonic()
        if now - self._troubles.get(key, float("-inf")) >= self.pace.again_s:
            self._troubles[key] = now
            # What comes after it is news, if it was said before or not.
            self._states.pop(subject, None)
            self.say(Kind.TROUBLE, f"{subject} {text}".strip())

    def _ask_events(self) -> None:
        """Warnings of what waits: a missing Secret, a quota or a policy stand in events alone."""
        now = time.monotonic()
        if now - self._asked_at < self.pace.events_s:
            return
        self._asked_at = now
        try:
            for subject, found in self._waiting():
                known = states.of_pod(found).events if subject.startswith("pod ") else ()
                about = f"involvedObject.name={name_of(found)},type=Warning"
                for event in self.cluster.list(EVENT, fieldSelector=about).items:
                    # Not of an object that had this name before.
                    is_its_own = event["involvedObject"].get("uid") in (None, found["metadata"]["uid"])
                    if is_its_own and event["reason"] not in known:
                        self._trouble(subject, f"{event['reason']}: {event['message']}")
        except FuseryError as error:
            # An account that may not read them, or not now, still sees what the pods say.
            self._trouble("events", f"can't be read: {error}")

    def _waiting(self) -> Iterator[tuple[str, Object]]:
        if not self._pods and self._job is not None:
            yield self._shown, self._job
        waiting = [pod for pod in self._pods.values() if pod.get("status", {}).get("phase") == "Pending"]
        yield from ((f"pod {name_of(pod)}", pod) for pod in waiting[:_ASKED_PODS])

    def _end(self, state: State, reason: str) -> Outcome | None:
        """How it ended; None: the API does not say it now."""
        try:
            # The Job's end may be known before that of its pod.
            pods = self.cluster.list(POD, labelSelector=pods_of(self.place, self.name)).items
        except Unavailable as error:
            self._trouble("", f"{error}; trying again")
            return None
        self._pods = {name_of(pod): pod for pod in pods}
        if self._job is not None:
            self._speak(self._job)
        for reader in self._readers.values():
            reader.finish(_LAST_WAIT_S)
        self._feeds.take(0.0)
        return outcome_of(self.cluster, state, reason, pods)


def outcome_of(cluster: Cluster, state: State, reason: str, pods: tuple[Object, ...]) -> Outcome:
    """How a Job with these pods ended."""
    if state is State.DONE:
        return Outcome(True, reason, 0, last_lines(cluster, pods))
    code = states.exit_code_of(pods)
    why = next((states.why_ended(pod) for pod in reversed(pods) if code and states.exit_code(pod) == code), "")
    return Outcome(False, reason, code, last_lines(cluster, pods), why)


def last_lines(cluster: Cluster, pods: tuple[Object, ...]) -> tuple[str, ...]:
    """The end of the log of a Job's newest pod; why not, where it can't be read."""
    pod = states.newest(pods)
    if pod is None:
        return ()
    try:
        lines = cluster.log(name_of(pod), container_of(pod), follow=False, tailLines=str(_LAST_LINES))
        return tuple(line.partition(" ")[2] for line in lines)
    except FuseryError as error:
        return (f"(its log can't be read: {error})",)


def pods_of(place: Place, name: str) -> str:
    """The labels of the pods of a Job, or of what makes Jobs of its own."""
    return f"batch.kubernetes.io/job-name={name}" if place == JOB else f"jobset.sigs.k8s.io/jobset-name={name}"


def name_of(found: Object) -> str:
    return str(found["metadata"]["name"])


def container_of(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["name"])
