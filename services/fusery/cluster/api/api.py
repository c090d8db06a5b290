"""The Kubernetes API as one account sees it: manifests in, objects out.

The official client connects: kubeconfig, service account, log-in programs, TLS, proxies. Its 700 classes of objects are
left alone. A manifest is a dict here as it is everywhere else, so JobSets and TrainJobs need nothing of their own. The
price is its import, which takes seconds and 70 MB: only a command that talks to a cluster pays it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusery.cluster.api.errors import POD, Asked, Object, Place, connecting, refusal
from fusery.runtime.errors import ConfigError, how_to_install
from fusery.runtime.settings import cluster_settings
from fusery.runtime.text.json import parse_json

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the token of a pod that has one."""

_CONNECT_S, _ANSWER_S = 5.0, 30.0
_SILENCE_S = 15.0
"""What a watch may be late with its own end."""
_LOG_SILENCE_S = 180.0
"""A run shows where it is every 30 seconds."""

_MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""What the client meets in YAML that is no kubeconfig: it looks at nothing before it takes it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects of one kind, and the version of the whole, from which a watch goes on."""

    items: tuple[Object, ...]
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """One namespace of the cluster at `server`. Every call may also raise what `refusals` names."""

    client: Any
    server: str
    namespace: str

    def create(self, manifest: Object, is_rehearsal: bool = False) -> Object:
        """The object as the cluster has made it. `is_rehearsal`: as it would make it; nothing is made.

        Raises:
            AlreadyThere: one of this kind and name exists.
        """
        asked = Asked("create", Place.of(manifest), self.namespace, manifest["metadata"]["name"])
        return self._object(asked, {"dryRun": "All"} if is_rehearsal else {}, manifest) or {}

    def get(self, place: Place, name: str) -> Object | None:
        """Returns the object, or None if there is none."""
        return self._object(Asked("get", place, self.namespace, name), may_miss=True)

    def list(self, place: Place, **selectors: str) -> Listing:
        """`selectors`: labelSelector, fieldSelector."""
        found = self._object(Asked("list", place, self.namespace), selectors) or {}
        return Listing(tuple(found["items"]), str(found["metadata"]["resourceVersion"]))

    def delete(self, place: Place, name: str) -> None:
        """Deletes an object and what belongs to it, in the background; one that is gone already is no error."""
        # Without the word, the pods of a Job stay and run on.
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        self._object(Asked("delete", place, self.namespace, name), body=options, may_miss=True)

    def watch(self, place: Place, version: str, lasts_s: int, **selectors: str) -> Iterator[tuple[str, Object]]:
        """What happens after `version` (ADDED, MODIFIED, DELETED, BOOKMARK) and to what, until the watch ends.

        Raises:
            Expired: the cluster has forgotten that version.
            Unavailable: the connection broke off.
        """
        asked = Asked("watch", place, self.namespace)
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(lasts_s), **selectors}
        for line in self._lines(asked, {**query, "allowWatchBookmarks": "true"}, lasts_s + _SILENCE_S):
            with connecting(self.server):
                content = parse_json(line)
            if content["type"] == "ERROR":
                raise refusal(int(content["object"].get("code", 500)), content["object"], asked, self.server)
            yield content["type"], content["object"]

    def log(self, pod: str, container: str, follow: bool, **options: str) -> Iterator[str]:
        """Lines of a container's log, each with its time in front. `options`: sinceTime, tailLines.

        Raises:
            InvalidInput: the container has not started.
            Unavailable: the connection broke off.
        """
        asked = Asked("get", POD, self.namespace, pod, "log")
        query = {"container": container, "timestamps": "true", "follow": "true" if follow else "", **options}
        # A connection that is lost without a word would be waited for without end.
        return self._lines(asked, query, _LOG_SILENCE_S if follow else _ANSWER_S)

    def _object(
        self, asked: Asked, query: Mapping[str, str] | None = None, body: Object | None = None, may_miss: bool = False
    ) -> Object | None:
        with connecting(self.server):
            answer = self._ask(asked, query or {}, body, _ANSWER_S)
            content = answer.data
        if answer.status == 404 and may_miss:
            return None
        if not 200 <= answer.status <= 299:
            raise refusal(answer.status, content, asked, self.server)
        with connecting(self.server):
            found: Object = parse_json(content)
        return found

    def _lines(self, asked: Asked, query: Mapping[str, str], reads_s: float | None) -> Iterator[str]:
        with connecting(self.server):
            answer = self._ask(asked, query, None, reads_s)
        try:
            if not 200 <= answer.status <= 299:
                raise refusal(answer.status, answer.data, asked, self.server)
            rest = b""
            with connecting(self.server):
                for part in answer.stream(amt=None, decode_content=False):
                    *whole, rest = (rest + part).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
            if rest:
                yield rest.decode(errors="replace")
        finally:
            # Not given back to the pool: something may be left to read in it.
            answer.close()

    def _ask(self, asked: Asked, query: Mapping[str, str], body: Object | None, reads_s: float | None) -> Any:
        given = [(name, value) for name, value in query.items() if value]
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        request = self.client.param_serialize(
            {"create": "POST", "delete": "DELETE"}.get(asked.verb, "GET"),
            asked.path,
            query_params=given,
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return self.client.call_api(*request, _request_timeout=(_CONNECT_S, reads_s)).response


def from_kubeconfig(namespace: str | None = None, path: str | None = None) -> Cluster:
    """The cluster of the kubeconfig's current context. `namespace`: None takes the context's.

    `path`: of the file; None: KUBECONFIG, or the usual place.

    Raises:
        ConfigError: there is no kubeconfig, it is none, or it names no cluster.
    """
    config, settings = _modules()
    path = path or cluster_settings().kubeconfig or "~/.kube/config"
    try:
        config.load_kube_config(config_file=path, client_configuration=settings)
        _, chosen = config.list_kube_config_contexts(path)
        namespace = namespace or chosen["context"].get("namespace") or "default"
    except (config.ConfigException, OSError, yaml.YAMLError, *_MALFORMED) as error:
        raise ConfigError(
            f"kubeconfig {path}: {' '.join(str(error).split())}; expected a file of kind Config whose current context "
            "is the cluster: set KUBECONFIG, or choose one with kubectl config use-context"
        ) from error
    return _cluster(settings, namespace)


def from_service_account() -> Cluster:
    """The cluster and the namespace of this pod.

    Raises:
        ConfigError: this is no pod, or it has no token.
    """
    config, settings = _modules()
    token, authority = str(SERVICE_ACCOUNT / "token"), str(SERVICE_ACCOUNT / "ca.crt")
    try:
        config.incluster_config.InClusterConfigLoader(token, authority).load_and_set(settings)
        namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"the Kubernetes API of this pod: {error}; expected a service account's token in {SERVICE_ACCOUNT}: set "
            "automountServiceAccountToken: true"
        ) from error
    return _cluster(settings, namespace)


def _modules() -> tuple[Any, Any]:
    """The client's `config`, and settings for it to fill."""
    try:
        from kubernetes.client import Configuration

        from kubernetes import config
    except ModuleNotFoundError as error:
        if error.name != "kubernetes":
            raise
        raise ConfigError(f"the package kubernetes is not installed: {how_to_install('kubernetes')}") from error
    # The caller knows better than urllib3 what is worth another attempt.
    return config, Configuration(retries=False)


def _cluster(settings: Any, namespace: str) -> Cluster:
    from kubernetes.client import ApiClient

    return Cluster(ApiClient(settings), settings.host, namespace)
