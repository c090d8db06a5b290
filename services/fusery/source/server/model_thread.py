"""The one thread that a model runs in, fed by a bounded queue.

Two batches on one device at a time are slower than one after the other and may not fit, and torch's settings
belong to a thread. The bound makes a flood of requests fail at once with Overloaded and not in memory later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from fusery.runtime.errors import Overloaded

T = TypeVar("T")


class ModelThread:
    """Runs functions one after the other, in the order they came."""

    def __init__(self, waiting_limit: int) -> None:
        self._limit = waiting_limit
        self._changed = threading.Condition()
        self._waiting: dict[Future[Any], Callable[[], Any]] = {}
        self._closing = False
        self._busy_since: float | None = None
        # A daemon, so that a process that ends does not wait for a model that is still loading.
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        """The function's result. A caller that gives up before its turn has its function never run.

        Raises:
            Overloaded: as many functions as the limit allows are waiting.
        """
        future: Future[T] = Future()
        with self._changed:
            self.check_room()
            self._waiting[future] = function
            self._changed.notify()
        future.add_done_callback(self._forget)
        return await asyncio.wrap_future(future)

    def check_room(self) -> None:
        """Returns if `run` would take a function now.

        Raises:
            Overloaded: it would not.
        """
        with self._changed:
            if len(self._waiting) >= self._limit:
                raise Overloaded(f"{self._limit} requests are waiting for the model; try again later")

    def waiting(self) -> int:
        """Functions that wait for their turn."""
        with self._changed:
            return len(self._waiting)

    def busy_s(self) -> float:
        """How long the function of the moment has been running; 0 if there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, timeout_s: float) -> None:
        """Ends the thread after what is queued; waits at most `timeout_s` for it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _forget(self, future: Future[Any]) -> None:
        """A caller that gave up must not keep others out while the model is busy."""
        with self._changed:
            self._waiting.pop(future, None)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._settle(*job)
            # The last answer must not stay in memory until the next request.
            del job

    def _settle(self, future: Future[T], function: Callable[[], T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        self._busy_since = time.monotonic()
        try:
            result = function()
        except BaseException as error:  # handed to the caller, whatever it is
            self._busy_since = None
            future.set_exception(error)
        else:
            # Before the caller goes on: it must never find the thread busy with its own, finished function.
            self._busy_since = None
            future.set_result(result)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            future = next(iter(self._waiting), None)
            return None if future is None else (future, self._waiting.pop(future))
