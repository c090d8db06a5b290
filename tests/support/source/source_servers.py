"""Source servers for tests: an engine whose answers can be computed by hand, and a real server around any engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import TopK
from fusery.source.api import Distributions, Document, Engine, Limits, ModelDescription, check_request, check_tokens
from fusery.source.server.server import SourceServer
from support.models.pico_models import pico_byte_tokenizer

T = TypeVar("T")


class UniformEngine:
    """Finds every token equally likely; `before` runs in the model's thread, before every answer."""

    def __init__(
        self, before: Callable[[Sequence[Document]], None] | None = None, limits: Limits | None = None
    ) -> None:
        self.tokenizer: ByteTokenizer = pico_byte_tokenizer("byte_level")
        self.model = ModelDescription(
            name="uniform",
            revision=None,
            weights_fingerprint="0" * 64,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            architecture="UniformForCausalLM",
            vocabulary_size=self.tokenizer.size,
            context_length=512,
            dtype="float32",
            limits=limits or Limits(),
        )
        self._before = before

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        check_request(documents, top_k, self.model)
        if self._before is not None:
            self._before(documents)
        texts = self.tokenizer.tokenize_batch([document.text for document in documents])
        check_tokens(documents, [len(text.ids_T) for text in texts], top_k, self.model)
        log_prob = np.float32(-np.log(self.tokenizer.size))
        answers = []
        for document, text in zip(documents, texts, strict=True):
            rows = len(text.ids_T)
            top = TopK(np.tile(np.arange(top_k), (rows, 1)), np.full((rows, top_k), log_prob, np.float32))
            next_log_probs = np.full(rows, log_prob, np.float32)
            next_log_probs[-1] = 0.0
            answers.append(Distributions(document.id, text.ids_T, text.byte_ends_T, top, next_log_probs))
        return answers


class RunningServer:
    """A server in a thread of its own: `address`, and `drain` to stop it before its time."""

    def __init__(self, load: Callable[[], Engine], token: str | None, waiting_requests: int, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._make(load, token, waiting_requests))
        self.address: str = self._run(self._server.start("127.0.0.1", port))
        self.loading = asyncio.run_coroutine_threadsafe(self._server.load(), self._loop)
        self._drained = False

    @staticmethod
    async def _make(load: Callable[[], Engine], token: str | None, waiting_requests: int) -> SourceServer:
        return SourceServer(load, token, waiting_requests)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def drain(self, grace_s: float = 10.0) -> None:
        if not self._drained:
            self._drained = True
            self._run(self._server.drain(grace_s))

    def close(self) -> None:
        self.drain()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


@contextmanager
def running(
    engine: Engine | Callable[[], Engine],
    *,
    token: str | None = None,
    waiting_requests: int = 32,
    port: int = 0,
    wait: bool = True,
) -> Iterator[RunningServer]:
    """A server on loopback, loaded (unless not `wait`), and drained at the end."""
    load: Callable[[], Engine] = engine if callable(engine) else lambda: engine
    server = RunningServer(load, token, waiting_requests, port)
    try:
        if wait:
            server.loading.result(60)
        yield server
    finally:
        server.close()
