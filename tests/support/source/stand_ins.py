"""What the stand-ins for inference servers share: a real HTTP server that keeps what it is asked, and a pico model.

`tgi_stand_in` and `vllm_stand_in` speak the published APIs of text-generation-inference and vLLM. They are not those
servers: they prove that the engines keep to the protocol, not what the servers compute. They are stricter than both: a
field that the API does not have, or a value out of its range, is refused, so a client can't get by with one.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from fusery.source.engines.transformers import TransformersEngine

Answer = tuple[int, Any]
Route = Callable[[Any], Answer]


def nullable(kind: str, **limits: float) -> dict[str, Any]:
    return {"type": [kind, "null"], **limits}


@dataclass(frozen=True, slots=True)
class PicoModel:
    """A loaded pico model and its folder's own tokenizer, special tokens and all."""

    engine: TransformersEngine
    folder: Path

    def ids(self, text: str, special: bool = True) -> list[int]:
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        whole: list[int] = tokenizer.encode(text, add_special_tokens=special).ids
        return whole

    def log_probs(self, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The log-softmax at every position, float32 [T, V]."""
        with torch.no_grad():
            logits = self.engine.network.model(input_ids=torch.tensor([ids])).logits[0]
        return np.asarray(logits.float().log_softmax(dim=1).numpy())


@dataclass
class StandIn:
    """A running stand-in. `broken`: answers given, one a call, before it works again."""

    url: str
    requests: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    broken: list[Answer] = field(default_factory=list)
    setup: str | None = None
    """What the server calls its settings, where its protocol has that; a test may change it."""


@contextmanager
def serving(routes: dict[str, Route], token: str | None) -> Iterator[StandIn]:
    # A proxy of the machine's must not see loopback.
    os.environ.update({"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.daemon_threads = True
    state = StandIn(f"http://127.0.0.1:{server.server_port}")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with lock:  # torch on one thread, and requests in an order
                status, answer = self._answer(body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _answer(self, body: Any) -> Answer:
            state.requests.append((self.path, body))
            state.headers.append({key.lower(): value for key, value in self.headers.items()})
            if state.broken:
                return state.broken.pop(0)
            if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
                return 401, {"error": "Unauthorized"}
            route = routes.get(f"{self.command} {self.path}")
            return (404, {"detail": "Not Found"}) if route is None else route(body)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            pass

    server.RequestHandlerClass = Handler
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
