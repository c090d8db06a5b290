"""What the stand-in for the Kubernetes API has: objects with versions, their history for watches, logs of pods.

It is no cluster: nothing runs. What the control plane and a kubelet would do, a test does with the methods of `Kube`.
Deletions leave the pods of a Job alone unless they are told to take them along, as the API's do.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Group, resource, name."""

NAMESPACE = "ml"
KINDS = {
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "services"): "Service",
    ("v1", "pods"): "Pod",
    ("v1", "events"): "Event",
    ("batch/v1", "jobs"): "Job",
}
OPTIONS = {
    ("jobset.x-k8s.io/v1alpha2", "jobsets"): "JobSet",
    ("trainer.kubeflow.org/v1alpha1", "trainjobs"): "TrainJob",
    ("trainer.kubeflow.org/v1alpha1", "trainingruntimes"): "TrainingRuntime",
}
"""Kinds that a cluster has when somebody has installed them."""


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        self.status |= {"reason": reason, "message": message}


@dataclass
class Kube:
    """The cluster's state, and what a test does to it. `holds_deletions`: deleted objects stay until `let_go`."""

    url: str = ""
    kubeconfig: Path = Path()
    user: str = "system:serviceaccount:ml:fusery"
    namespaces: set[str] = field(default_factory=lambda: {NAMESPACE, "default"})
    kinds: dict[tuple[str, str], str] = field(default_factory=lambda: dict(KINDS))
    denied: dict[tuple[str, str], str] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)
    holds_deletions: bool = False
    gone_as_event: bool = True
    on_create: Callable[[Object], None] = lambda _: None
    seen: set[tuple[str, str, str]] = field(default_factory=set)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    lock: threading.Condition = field(default_factory=threading.Condition)
    objects: dict[Key, Object] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    _history: list[tuple[int, str, Key, Object]] = field(default_factory=list)
    _version: int = 100
    _oldest: int = 100
    _cuts: int = 0

    # What a test does.

    def deny(self, verb: str, resource: str, message: str = "") -> None:
        """403 from now on; without `message` in the words of the access rules."""
        self.denied[verb, resource] = message

    def get(self, kind: str, name: str) -> Object:
        with self.lock:
            return copy.deepcopy(next(o for k, o in self.objects.items() if o["kind"] == kind and k[2] == name))

    def names(self, kind: str) -> list[str]:
        with self.lock:
            return sorted(key[2] for key, found in self.objects.items() if found["kind"] == kind)

    def change(self, kind: str, name: str, change: Callable[[Object], object]) -> None:
        with self.lock:
            key = next(key for key, found in self.objects.items() if found["kind"] == kind and key[2] == name)
            content = copy.deepcopy(self.objects[key])
            change(content)
            self._put("MODIFIED", key, content)

    def pod(self, owner: str, kind: str = "Job", name: str = "", index: int = 0) -> str:
        """A pending pod of a Job (or of what else there is), as its controller would make it; its name."""
        job = self.get(kind, owner)
        # A JobSet's pods come from a template further down; what it says makes no difference here.
        template = job["spec"].get("template", {"metadata": {}, "spec": {"containers": [{"name": "trainer"}]}})
        name = name or f"{owner}-{self._version}"
        labels = {**template["metadata"].get("labels", {}), "batch.kubernetes.io/job-name": owner}
        labels |= {"job-name": owner, "batch.kubernetes.io/job-completion-index": str(index)}
        if kind != "Job":
            labels["jobset.sigs.k8s.io/jobset-name"] = owner
        owners = [{"apiVersion": job["apiVersion"], "kind": kind, "name": owner, "uid": job["metadata"]["uid"]}]
        owners[0]["controller"] = True
        metadata = {"name": name, "labels": labels, "ownerReferences": owners}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        self.create("v1", "pods", {**body, "status": {"phase": "Pending"}})
        with self.lock:
            self.logs[name] = []
        return name

    def unschedulable(self, pod: str, message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.change("Pod", pod, lambda found: found["status"].update(conditions=[condition]))

    def container(self, pod: str, phase: str, **state: Any) -> None:
        """Sets phase and container state: running={…}, waiting={…} or terminated={…}."""
        name = self.get("Pod", pod)["spec"]["containers"][0]["name"]
        statuses = [{"name": name, "state": state, "ready": "running" in state, "restartCount": 0}]
        status = {"phase": phase, "containerStatuses": statuses}
        status["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self.change("Pod", pod, lambda found: found["status"].update(status))

    def runs(self, pod: str) -> None:
        self.container(pod, "Running", running={"startedAt": _time(0)})

    def waits(self, pod: str, reason: str, message: str) -> None:
        self.container(pod, "Pending", waiting={"reason": reason, "message": message})

    def ends(self, pod: str, exit_code: int, reason: str = "") -> None:
        """The pod's container ends; what the Job makes of it is another step."""
        state = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed")}
        self.container(pod, "Failed" if exit_code else "Succeeded", terminated=state)

    def finishes(self, name: str, condition: str, kind: str = "Job", reason: str = "", message: str = "") -> None:
        """A Job gets the condition Complete or Failed (a JobSet: Completed)."""
        added = {"type": condition, "status": "True", "reason": reason, "message": message}
        status = lambda found: found.setdefault("status", {})  # noqa: E731
        self.change(kind, name, lambda found: status(found).setdefault("conditions", []).append(added))

    def warns(self, kind: str, name: str, reason: str, message: str) -> None:
        """An event of an object, as `kubectl describe` shows it."""
        about = {"kind": kind, "name": name, "uid": self.get(kind, name)["metadata"]["uid"]}
        body = {"metadata": {"name": f"{name}.{self._version}"}, "involvedObject": about, "type": "Warning"}
        body |= {"apiVersion": "v1", "kind": "Event", "reason": reason, "message": message, "count": 1}
        self.create("v1", "events", body)

    def says(self, pod: str, *lines: str) -> None:
        with self.lock:
            self.logs[pod] += lines
            self.lock.notify_all()

    def forget(self) -> None:
        """Whoever goes on from an earlier version is told 410."""
        with self.lock:
            self._version += 1
            self._oldest, self._history = self._version, []
            self.lock.notify_all()

    def cut(self) -> None:
        """Breaks every open watch and log off in the middle."""
        with self.lock:
            self._cuts += 1
            self.lock.notify_all()

    def let_go(self) -> None:
        """Deleted objects that were held go away."""
        with self.lock:
            self.holds_deletions = False
            for key in [key for key, found in self.objects.items() if "deletionTimestamp" in found["metadata"]]:
                self._remove(key)

    def wait_for(self, done: Callable[[], object], timeout_s: float = 60) -> None:
        """Waits until something of the state is so; a change of it wakes the wait."""
        with self.lock:
            assert self.lock.wait_for(lambda: bool(done()), timeout_s), f"waited in vain; objects: {list(self.objects)}"

    # What the API does.

    def note(self, verb: str, resource: str, name: str) -> None:
        with self.lock:
            self.requests.append((verb, resource, name))
            self.lock.notify_all()

    def create(self, api_version: str, resource: str, body: Object, is_rehearsal: bool = False) -> Object:
        with self.lock:
            group = api_version.rpartition("/")[0]
            key = (group, resource, body["metadata"]["name"])
            if key in self.objects:
                what = f"{resource}.{group}" if group else resource
                being = "object is being deleted: " if "deletionTimestamp" in self.objects[key]["metadata"] else ""
                raise Refused(409, "AlreadyExists", f'{being}{what} "{key[2]}" already exists')
            content = copy.deepcopy(body)
            content["metadata"] |= {
                "namespace": NAMESPACE,
                "uid": f"uid-{self._version}",
                "creationTimestamp": _time(0),
            }
            if not is_rehearsal:
                self._put("ADDED", key, content)
            return content

    def delete(self, key: Key, policy: str | None) -> None:
        with self.lock:
            found = self.objects[key]
            if self.holds_deletions:
                self._put("MODIFIED", key, {**found, "metadata": {**found["metadata"], "deletionTimestamp": _time(9)}})
                return
            self._remove(key, cascades=policy in ("Background", "Foreground"))

    def _remove(self, key: Key, cascades: bool = True) -> None:
        found = self.objects.pop(key)
        self._note("DELETED", key, found)
        uid = found["metadata"]["uid"]
        for other, content in list(self.objects.items()) if cascades else []:
            if any(owner["uid"] == uid for owner in content["metadata"].get("ownerReferences", [])):
                self._remove(other)

    def _put(self, change: str, key: Key, content: Object) -> None:
        self.objects[key] = content
        self._note(change, key, content)

    def _note(self, change: str, key: Key, content: Object) -> None:
        self._version += 1
        content["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, change, key, copy.deepcopy(content)))
        self.lock.notify_all()

    def listed(self, api_version: str, resource: str, query: dict[str, str]) -> Object:
        with self.lock:
            group = api_version.rpartition("/")[0]
            items = [found for key, found in self.objects.items() if key[:2] == (group, resource)]
            items = copy.deepcopy([found for found in items if _fits(found, query)])
            for found in items if (api_version, resource) in KINDS else ():
                # As the API does: what the list is of says it.
                del found["kind"], found["apiVersion"]
            return {"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": items}

    def refuse_forgotten(self, version: str) -> None:
        if int(version or 0) < self._oldest:
            raise Refused(410, "Expired", f"too old resource version: {version} ({self._oldest})")

    def changes(self, api_version: str, resource: str, query: dict[str, str]) -> Iterator[bytes]:
        """The lines of a watch."""
        since, kind = int(query.get("resourceVersion") or 0), (api_version.rpartition("/")[0], resource)
        ends, cuts = datetime.now(UTC) + timedelta(seconds=int(query.get("timeoutSeconds", 60))), self._cuts
        while True:
            with self.lock:
                try:
                    self.refuse_forgotten(str(since))
                except Refused as refused:
                    yield _line({"type": "ERROR", "object": refused.status})
                    return
                news = [(n, change, found) for n, change, key, found in self._history if n > since and key[:2] == kind]
                if not news:
                    left_s = (ends - datetime.now(UTC)).total_seconds()
                    self.lock.wait(max(0.0, left_s))
                    if self._cuts != cuts:
                        raise ConnectionAbortedError
                    if left_s <= 0:
                        return
            for version, change, found in news:
                since = version
                if _fits(found, query):
                    yield _line({"type": change, "object": found})

    def lines(self, pod: str, query: dict[str, str]) -> Iterator[bytes]:
        """A container's log; with follow until the container has ended."""
        done, cuts = 0, self._cuts
        first = datetime.fromisoformat(query["sinceTime"]).replace(microsecond=0) if "sinceTime" in query else None
        done = max(0, len(self.logs[pod]) - int(query["tailLines"])) if "tailLines" in query else 0
        while True:
            with self.lock:
                news = list(enumerate(self.logs[pod]))[done:]
                is_over = pod not in self.names("Pod") or "terminated" in _state(self.get("Pod", pod))
                if not news and (is_over or query.get("follow") != "true"):
                    return
                if not news:
                    self.lock.wait(0.5)
                if self._cuts != cuts:
                    raise ConnectionAbortedError
            for number, line in news:
                done = number + 1
                if first is None or datetime.fromisoformat(_time(number)) >= first:
                    yield f"{_time(number)} {line}\n".encode()


def _time(seconds: int) -> str:
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds / 4)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06d}000Z"


def _line(content: Object) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _state(pod: Object) -> Object:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    state: Object = statuses[0]["state"] if statuses else {}
    return state


def _fits(found: Object, query: dict[str, str]) -> bool:
    labels = found["metadata"].get("labels", {})
    wanted = [part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part]
    fields = [part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part]
    return all(labels.get(k) == v for k, v in wanted) and all(_field(found, k) == v for k, v in fields)


def _field(found: Object, path: str) -> Any:
    for part in path.split("."):
        found = found.get(part, {})
    return found
