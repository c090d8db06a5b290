"""The HTTP server that a scraper asks. It is open to a whole network, so no connection can hold it.

A connection has ten seconds, whatever it sends or reads meanwhile, and there are at most sixteen: one more takes the
place of the oldest. A scrape takes milliseconds.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from fusery.runtime.errors import ConfigError

MAX_CONNECTIONS = 16
MAX_S = 10.0


class MetricsPort:
    """Serves `registry` from a thread of its own; `port` 0 takes a free one.

    Raises:
        ConfigError: the port can't be had.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int, max_s: float = MAX_S) -> None:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._server = _Server(family, address[:2], max_s)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"metrics: {host}:{port} can't be listened on: {error}; is another server there?"
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *_: Any) -> None:
        pass


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, family: socket.AddressFamily, address: Any, max_s: float) -> None:
        self.address_family = family
        self._max_s = max_s
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._since: dict[socket.socket, float] = {}
        """When each connection came, oldest first."""
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self._end_until(float("inf"), most=1)
            if not self._places.acquire(timeout=1.0):
                self.shutdown_request(request)
                return
        # Each wait for a peer, and in `service_actions` all of them together.
        request.settimeout(self._max_s)
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._since.pop(request, None)
            self._places.release()

    def service_actions(self) -> None:
        # Called twice a second, and after each connection.
        self._end_until(time.monotonic() - self._max_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Peers that go, or are ended here.
        pass

    def _end_until(self, came_by: float, most: int = MAX_CONNECTIONS) -> None:
        """Ends the connections that came so early; their threads find them closed."""
        for request, since in list(self._since.items())[:most]:
            if since <= came_by:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
