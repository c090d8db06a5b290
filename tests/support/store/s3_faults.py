"""A small HTTP proxy in front of an S3 server that answers some requests as a busy, broken or slow server does."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "expect"}
_BUSY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message></Error>"
)


class Fault(Enum):
    BUSY = "503 SlowDown"
    BROKEN = "500 without a word"
    CUT_REQUEST = "the connection is reset in the middle of the request"
    LOST_ANSWER = "the request is carried out, and the connection ends without an answer"
    CUT_ANSWER = "the connection ends in the middle of the answer"
    HANG = "no answer"
    SLOW = "the answer trickles"
    TERSE = "412 does not say which condition failed"


Chooser = Callable[[str, str], Fault | None]
"""The fault of a request, by its method and path."""


@dataclass
class Proxy:
    """What the proxy does and has seen. `choose` may be replaced at any time."""

    upstream: str
    choose: Chooser = lambda _method, _path: None
    seen: list[tuple[str, str, Fault | None]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def faults(self, fault: Fault, times: int, *methods: str) -> None:
        """The next `times` requests (of `methods`, if any are given) meet `fault`."""
        left = [times]

        def choose(method: str, _path: str) -> Fault | None:
            if (methods and method not in methods) or not left[0]:
                return None
            left[0] -= 1
            return fault

        self.choose = choose

    def count(self, fault: Fault) -> int:
        return sum(seen is fault for _, _, seen in self.seen)


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    known = Proxy(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(known))
    server.daemon_threads = True
    known.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield known
    finally:
        known.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(known: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _handle(self) -> None:
            fault = known.choose(self.command, self.path)
            known.seen.append((self.command, self.path, fault))
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length // 2 if fault is Fault.CUT_REQUEST else length)
            if fault is Fault.HANG:
                known.ended.wait(30)
            if fault in (Fault.CUT_REQUEST, Fault.HANG):
                self._reset()
            elif fault is Fault.BUSY:
                self._answer(503, {}, _BUSY)
            elif fault is Fault.BROKEN:
                self._answer(500, {}, b"")
            else:
                self._pass_on(body, fault)

        def _pass_on(self, body: bytes, fault: Fault | None) -> None:
            status, headers, content = self._forward(body)
            if fault is Fault.TERSE:
                content = content.replace(b"<Condition>If-None-Match</Condition>", b"")
            if fault is Fault.LOST_ANSWER:
                self._reset()
            else:
                self._answer(status, headers, content, fault)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = HTTPConnection(urlsplit(known.upstream).netloc, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            if self.command == "HEAD":
                kept["Content-Length"] = answer.getheader("Content-Length") or "0"
            connection.close()
            return answer.status, kept, content

        def _answer(self, status: int, headers: dict[str, str], content: bytes, fault: Fault | None = None) -> None:
            self.send_response_only(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            body = b"" if self.command == "HEAD" else content
            if fault is Fault.CUT_ANSWER and body:
                self.wfile.write(body[: len(body) // 2])
                self._reset()
            elif fault is Fault.SLOW:
                part = max(1, len(body) // 10)
                for start in range(0, len(body), part):
                    time.sleep(0.05)
                    self.wfile.write(body[start : start + part])
            else:
                self.wfile.write(body)

        def _reset(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            # Without lingering, closing sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    return Handler
