"""Requests to the Kubernetes API, and its refusals as errors that say who may not do what, where, and what helps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fusery.runtime.errors import ConfigError, FuseryError, InvalidInput, Overloaded, Unavailable
from fusery.runtime.text.json import parse_json

Object = dict[str, Any]
"""An object of the API, as JSON values."""


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


_ACCOUNT = re.compile(r'User "([^"]+)"')


class AlreadyThere(InvalidInput):
    """An object of this kind and name exists."""


class Expired(Unavailable):
    """The cluster has forgotten the version that a watch was to go on from; list anew."""


class NotAllowed(InvalidInput):
    """The account lacks a right; the message says which, and what gives it."""


def refusal(status: int, content: bytes | Mapping[str, Any], asked: Asked, server: str) -> FuseryError:
    """The error of an answer that is no success. `content`: the Status object of the API, or what came instead."""
    told = _status(content) if isinstance(content, bytes) else content
    message = str(told.get("message") or f"HTTP {status}")
    where = f"namespace {asked.namespace} of the cluster at {server}"
    match status:
        case 401:
            return ConfigError(
                f"the Kubernetes API at {server} does not know who asks (401): {message}; log in again, until "
                f"kubectl --namespace {asked.namespace} get pods answers"
            )
        case 403 if "exceeded quota" in message:
            return Overloaded(f"{where}: {message}; make room in the quota, then give the same command again")
        case 403:
            return _not_allowed(message, asked, where)
        case 404:
            return _not_found(message, asked, where)
        case 409:
            return AlreadyThere(f"{where}: {message}")
        case 410:
            return Expired(f"{where}: {message}")
        case _ if status == 429 or status >= 500:
            return Unavailable(f"the Kubernetes API at {server} can't answer now ({status}): {message}")
    return InvalidInput(f"{where}: {asked.verb} {asked.shown} was refused ({status}): {message}")


def _status(content: bytes) -> Mapping[str, Any]:
    """The Status object of an answer; a proxy in between answers in words of its own."""
    try:
        told = parse_json(content)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {"message": content[:300].decode(errors="replace").strip()}


def _not_allowed(message: str, asked: Asked, where: str) -> FuseryError:
    if "forbidden: User" not in message:
        # An admission rule of the cluster, or a namespace that is being deleted, says itself what is wrong.
        return NotAllowed(f"{where}: {asked.verb} {asked.shown} was refused (403): {message}")
    found = _ACCOUNT.search(message)
    account = found.group(1) if found else "the account of this command"
    qualified = asked.place.resource + (f".{asked.place.group}" if asked.place.group else "")
    part = f" --subresource {asked.part}" if asked.part else ""
    return NotAllowed(
        f"{where}: {account} may not {asked.verb} {asked.resource}; it needs a Role with the rule "
        f'{{apiGroups: ["{asked.place.group}"], resources: ["{asked.resource}"], verbs: ["{asked.verb}"]}} and a '
        "RoleBinding (docs/deployment.md, Run on a cluster, has all rules). Try it with: "
        f"kubectl --namespace {asked.namespace} auth can-i {asked.verb} {qualified}{part}"
    )


def _not_found(message: str, asked: Asked, where: str) -> FuseryError:
    if message.startswith("namespaces "):
        return ConfigError(
            f"{where}: there is no such namespace; make it with: kubectl create namespace {asked.namespace}, or set "
            "kubernetes.namespace to the one that has the release"
        )
    if "could not find the requested resource" in message or "page not found" in message:
        return ConfigError(
            f"{where}: this cluster has no {asked.place.kind} ({asked.place.api_version}); install what serves it, or "
            "set kubernetes.trainer.kind: job"
        )
    return ConfigError(f"{where}: {asked.shown} is not there: {message}")


@contextmanager
def connecting(server: str) -> Iterator[None]:
    """Turns what the connection runs into, in the block, into errors in words.

    Raises:
        Unavailable: nothing answers there, or the answer broke off.
        ConfigError: what answers has another certificate.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError, SSLError

    try:
        yield
    except SSLError as error:
        raise ConfigError(f"{_tls(server)}: {error}") from error
    except ApiException as error:
        # The client hides what TLS says in one of its own, without a status.
        if error.status:
            raise
        raise ConfigError(f"{_tls(server)}: {' '.join(str(error.reason).split())}") from error
    except (HTTPError, OSError, json.JSONDecodeError) as error:
        # urllib3 puts the connection object in front.
        said = str(error).rpartition(">: ")[2] or type(error).__name__
        raise Unavailable(
            f"the Kubernetes API at {server} does not answer: {said}; look whether it is the right address "
            "(the kubeconfig's current context) and can be reached from here (in a pod: network policies)"
        ) from error


def _tls(server: str) -> str:
    return f"the Kubernetes API at {server} shows a certificate that the kubeconfig's authority did not sign"
