"""`fusery serve-source` as a process: it loads one engine, writes its address into a file, ends at SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass, field
from pathlib import Path

from fusery.config.run import EngineKind, split_engine
from fusery.core.rules import Dtype
from fusery.source.api import Engine, Limits
from fusery.source.engines.by_name import check_engine, load_engine
from fusery.source.server.server import Front, SourceServer
from fusery.source.token import TokenFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A source server: which model (`engines` tells how it is named), how, where it listens. `port` 0: a free one.

    `ready_file` is written with host:port once the model is loaded. `token_file` holds the bearer token that
    calls must carry. `device` is a torch device, None: a GPU if there is one; `threads` are torch's on a CPU.
    """

    model: str
    revision: str | None = None
    tokenizer: str | None = None
    same_as: str | None = None
    dtype: str = Dtype.FLOAT32.value
    attention: str | None = None
    device: str | None = None
    name: str | None = None
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 50051
    ready_file: Path | None = None
    token_file: Path | None = None
    waiting_requests: int = 32
    drain_s: float = 30.0
    limits: Limits = field(default_factory=Limits)
    front: Front = field(default_factory=Front)


def serve(config: ServeConfig) -> int:
    """Exit code 0, after SIGTERM or SIGINT and a graceful drain.

    Raises:
        ModelError: the checkpoint can't be used.
        ConfigError: a port can't be had, or the files of token or TLS can't be used.
    """
    token = None if config.token_file is None else TokenFile(config.token_file)
    if config.front.tls is not None:
        config.front.tls.read()
    check_engine(config.model, config.revision, config.tokenizer, config.same_as)
    if config.ready_file is not None:
        config.ready_file.unlink(missing_ok=True)
    asyncio.run(_serve(config, token))
    return 0


async def _serve(config: ServeConfig, token: TokenFile | None) -> None:
    stop = _stop_event()
    server = SourceServer(lambda: _load(config), token, config.waiting_requests, config.front)
    try:
        address = await server.start(config.host, config.port)
        log.info("%s: listening on %s, loading", config.model, address)
        _tell_of(server, config)
        await _serve_until(stop, server, config, address)
        log.info("%s: draining", config.model)
    finally:
        await server.drain(config.drain_s)


def _stop_event() -> asyncio.Event:
    """Set at SIGTERM, and at Ctrl-C unless that is ignored from the start, as in what a script starts with &."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _tell_of(server: SourceServer, config: ServeConfig) -> None:
    tls, is_local = config.front.tls, config.host in _LOOPBACK
    for what, address in (("health checks", server.health_address), ("metrics", server.metrics_address)):
        if address is not None:
            log.info("%s: %s on %s", config.model, what, address)
    if config.token_file is None and (tls is None or tls.client_ca is None) and not is_local:
        log.warning("anyone who reaches %s may use this server: it asks for no token and no certificate", config.host)
    if config.token_file is not None and tls is None and not is_local:
        log.warning("the token travels in the clear to %s: there is no TLS", config.host)


async def _serve_until(stop: asyncio.Event, server: SourceServer, config: ServeConfig, address: str) -> None:
    stopping, loading = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(server.load())
    try:
        await asyncio.wait((stopping, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            log.info("%s: serving on %s", config.model, address)
            if config.ready_file is not None:
                # A reader finds the whole content or no file.
                beside = config.ready_file.with_name(config.ready_file.name + ".part")
                beside.write_text(address, encoding="utf-8")
                beside.replace(config.ready_file)
            await stopping
    finally:
        stopping.cancel()
        loading.cancel()


def _load(config: ServeConfig) -> Engine:
    if config.threads is not None and split_engine(config.model)[0] is EngineKind.TRANSFORMERS:
        import torch

        torch.set_num_threads(config.threads)
    return load_engine(
        config.model,
        config.revision,
        Dtype(config.dtype),
        tokenizer=config.tokenizer,
        attention=config.attention,
        device=config.device,
        name=config.name,
        limits=config.limits,
        same_as=config.same_as,
    )
