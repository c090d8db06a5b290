"""Jobs for the tests of what launches and follows them, and what is said meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fusery.cluster.api.follow import Follower, Kind, Outcome
from fusery.cluster.api.watches import Pace

QUICK = Pace(pause_s=0.01, longest_pause_s=0.05, watch_s=2, events_s=0.05)


def job(name: str = "train", run: str = "fusery-pico-1", args: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    """A Job of a run, of one container."""
    labels = {"fusery/run": run}
    container = {"name": "trainer", "image": "fusery:1", "args": list(args)}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": labels}}
    return {**body, "spec": {"template": template, **spec}}


def config_map(text: str, name: str = "fusery-pico-1", run: str = "fusery-pico-1") -> dict[str, Any]:
    metadata = {"name": name, "labels": {"fusery/run": run}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"run.yaml": text}}


@dataclass
class Ear:
    """Keeps what is said."""

    said: list[tuple[Kind, str]] = field(default_factory=list)

    def __call__(self, kind: Kind, text: str) -> None:
        self.said.append((kind, text))

    def texts(self, kind: Kind) -> list[str]:
        return [text for said, text in self.said if said is kind]

    def heard(self, part: str) -> bool:
        return any(part in text for _, text in self.said)


def look_until(follower: Follower, done: Callable[[], object], timeout_s: float = 60) -> None:
    """Looks until `done`; the Job must not end before."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "nothing of the kind was said"
        assert follower.look(0.05) is None


def look_to_the_end(follower: Follower, timeout_s: float = 60) -> Outcome:
    deadline = time.monotonic() + timeout_s
    while (outcome := follower.look(0.05)) is None:
        assert time.monotonic() < deadline, "the end was not seen"
    return outcome
