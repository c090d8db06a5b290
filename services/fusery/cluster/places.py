"""What is asked of the Kubernetes API: a verb on a kind of object, as its access rules name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""An object of the API, as JSON values."""

_METHODS = {"create": "POST", "delete": "DELETE"}


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of object: its API group and version as a manifest writes them, and the kind."""

    api_version: str
    kind: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Place:
        return cls(manifest["apiVersion"], manifest["kind"])

    @property
    def group(self) -> str:
        """'' is the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def resource(self) -> str:
        return f"{self.kind.lower()}s"

    def __str__(self) -> str:
        """As kubectl takes it: job, or jobset.jobset.x-k8s.io."""
        return self.kind.lower() + (f".{self.group}" if "." in self.group else "")


POD, EVENT, JOB = Place("v1", "Pod"), Place("v1", "Event"), Place("batch/v1", "Job")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `verb` on the object `name` of a place ('': on all of them), or on a part of it such as its log."""

    verb: str
    place: Place
    namespace: str
    name: str = ""
    part: str = ""

    @property
    def method(self) -> str:
        return _METHODS.get(self.verb, "GET")

    @property
    def path(self) -> str:
        root = f"/apis/{self.place.api_version}" if self.place.group else f"/api/{self.place.api_version}"
        # The name of what is created stands in the manifest alone.
        parts = [] if self.verb == "create" else [part for part in (self.name, self.part) if part]
        return "/".join([root, "namespaces", self.namespace, self.place.resource, *parts])

    @property
    def resource(self) -> str:
        """As a Role names it."""
        return self.place.resource + (f"/{self.part}" if self.part else "")

    @property
    def shown(self) -> str:
        """The object as kubectl names it: job/fusery-run."""
        return f"{self.place}/{self.name}" if self.name else self.resource
