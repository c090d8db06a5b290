"""What the state of a Job or a pod means, in words for the people who wait for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fusery.cluster.api.errors import Object


class State(StrEnum):
    """Of a Job, a JobSet or a TrainJob."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DONE = "done"
    FAILED = "failed"


_ENDS = {"Complete": State.DONE, "Completed": State.DONE, "Failed": State.FAILED}

_EXITS = {
    1: "it failed",
    2: "the input is wrong",
    3: "some shards failed for good; the rest is done and kept",
    4: "done and kept, but the gate did not pass",
    130: "it was interrupted",
    137: "it was killed, by its node or at the end of its grace",
    143: "it was told to stop, and goes on from its checkpoint",
}

_STOPS = (130, 143)
_COMPONENTS = ("run", "trainer", "evaluate")
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_STARTS = ("ContainerCreating", "PodInitializing")
_START_EVENTS = ("Failed", "BackOff", "ErrImageNeverPull", "InspectFailed")
_REASON_CHARACTERS = 300


def state_of(job: Object) -> tuple[State, str]:
    """How a Job stands, and why it failed."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in _ENDS and condition["status"] == "True":
            why = [condition.get(key, "") for key in ("reason", "message")]
            return _ENDS[condition["type"]], ": ".join(part for part in why if part)
    return (State.SUSPENDED if job["spec"].get("suspend") else State.ACTIVE), ""


def is_being_deleted(found: Object) -> bool:
    return "deletionTimestamp" in found["metadata"]


@dataclass(frozen=True, slots=True)
class PodWords:
    """What is said of a pod. `is_trouble`: it does not get on by itself, or not soon."""

    text: str
    is_trouble: bool = False
    about: str = ""
    """What the trouble is, where its words change and it does not."""
    is_end: bool = False
    events: tuple[str, ...] = ()
    """Reasons of events that say the same again."""


def of_pod(pod: Object) -> PodWords:
    """Where a pod stands, with the reason of what keeps it from running."""
    status = pod.get("status", {})
    for container in _containers(status):
        waiting = container["state"].get("waiting")
        if waiting is not None and waiting.get("reason", "") not in (*_STARTS, ""):
            reason, image, about = waiting["reason"], container.get("image"), ""
            text = "can't be started"
            if reason in _IMAGE:
                text, about = f"can't pull its image{f' {image}' if image else ''}", f"can't pull {image}"
            why = waiting.get("message") or "kubectl describe says more"
            return PodWords(f"{text} ({reason}): {why}", True, about, events=_START_EVENTS)
    code = exit_code(pod)
    if code is not None:
        return PodWords(
            f"ended with exit code {code}" + (f": {why_ended(pod)}" if code else ""), code != 0, is_end=True
        )
    if is_being_deleted(pod):
        return PodWords("is being stopped")
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            why = condition.get("message") or condition.get("reason")
            return PodWords(f"waits for a node: {why}", True, events=("FailedScheduling",))
    match status.get("phase"):
        case "Running":
            return PodWords("runs")
        case "Failed":
            why = ": ".join(part for part in (status.get("reason"), status.get("message")) if part)
            return PodWords(f"failed: {why or 'its node says no more'}", True, is_end=True)
        case "Succeeded":
            return PodWords("is done")
    return PodWords("is being started")


def _containers(status: Object) -> Iterator[Object]:
    yield from status.get("initContainerStatuses", [])
    yield from status.get("containerStatuses", [])


def exit_code(pod: Object) -> int | None:
    """Of the pod's first container, or of an init container that failed; None: it runs, or its node took it along."""
    status = pod.get("status", {})
    ends = [container["state"].get("terminated") for container in _containers(status)]
    failed = next((end for end in ends if end is not None and end["exitCode"]), None)
    if failed is not None:
        return int(failed["exitCode"])
    mains = [container["state"].get("terminated") for container in status.get("containerStatuses", [])]
    return int(mains[0]["exitCode"]) if mains and mains[0] is not None else None


def why_ended(pod: Object) -> str:
    """Why a pod with an exit code over 0 ended: what that means, and what the pod itself said last.

    A pod of a run leaves the end of its log in its state (terminationMessagePolicy), for those without a right to logs.
    """
    code, status = exit_code(pod) or 0, pod.get("status", {})
    ends = [container["state"].get("terminated") or {} for container in _containers(status)]
    if any(end.get("reason") == "OOMKilled" for end in ends):
        return _out_of_memory(pod)
    if code in _STOPS:
        return exit_words(code)
    node = ": ".join(status[key] for key in ("reason", "message") if status.get(key))
    said = next((text for end in ends if end.get("exitCode") and (text := _last_words(end.get("message", "")))), "")
    return ": ".join(part for part in (exit_words(code), node, said) if part)


def _out_of_memory(pod: Object) -> str:
    component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")
    limits = [
        box.get("resources", {}).get("limits", {}).get("memory") for box in pod.get("spec", {}).get("containers", [])
    ]
    limit = next((f" of {found}" for found in limits if found), "")
    key = f"kubernetes.{component}.resources.limits.memory" if component in _COMPONENTS else "its limit of memory"
    return f"it needed more memory than its limit{limit} (OOMKilled); raise {key}"


def _last_words(log: str) -> str:
    """The error of a command in the end of its log, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("fusery ")] or lines
    return said[-1][:_REASON_CHARACTERS] if said else ""


def likeness(text: str, job: str) -> str:
    """`text` without what differs from pod to pod and from moment to moment: names of a Job's pods, ids, numbers."""
    text = re.sub(rf"\b{re.escape(job)}-[a-z0-9-]+", "POD", text)
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+(\.\d+)?", "#", text)


def of_nodes(job: Object, pods: Sequence[Object]) -> str:
    """How many nodes of a training on several are there, while not all of them are; '' of other jobs."""
    spec = job["spec"]
    sets = [made["template"]["spec"] for made in spec.get("replicatedJobs", [])]
    nodes = max(
        [1, spec.get("trainer", {}).get("numNodes", 1), *(part.get("completions", 1) for part in (spec, *sets))]
    )
    phases = [pod.get("status", {}).get("phase") for pod in pods]
    running, done = phases.count("Running"), phases.count("Succeeded")
    if nodes == 1 or not running or running >= nodes:
        return ""
    if done:
        return f"{done} of {nodes} nodes have finished"
    return f"{running} of {nodes} nodes run, and wait for the others"


def exit_words(code: int) -> str:
    return _EXITS.get(code, f"it ended with {code}")


def exit_code_of(pods: Sequence[Object]) -> int | None:
    """That of a Job that failed: of its newest pod, or of any that says that another attempt is in vain."""
    ended = [code for code in map(exit_code, sorted(pods, key=_age)) if code]
    return next((code for code in ended if code in (2, 3, 4)), ended[-1] if ended else None)


def _age(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))


def newest(pods: Sequence[Object]) -> Object | None:
    """The pod whose log is worth reading: of several at the same time the first of its Job."""

    def place(pod: Object) -> tuple[str, int]:
        return _age(pod), -int(pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-completion-index", 0))

    # Times are whole seconds; of equal ones the last pod that was seen.
    return max(reversed(pods), key=place, default=None)
