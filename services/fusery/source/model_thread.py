"""The one thread that a model runs in, fed by a bounded queue.

Two batches on one device at a time are slower than one after the other and may not fit, and torch's settings
belong to a thread. The bound makes a flood of requests fail at once with Overloaded and not in memory later.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from fusery.errors import Overloaded

T = TypeVar("T")


class ModelThread:
    """Runs functions one after the other, in the order they came."""

    def __init__(self, waiting_limit: int) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting_limit)
        # A daemon, so that a process that ends does not wait for a model that is still loading.
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        """The function's result. A caller that gives up before its turn has its function never run.

        Raises:
            Overloaded: as many functions as the limit allows are waiting.
        """
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait(lambda: _settle(future, function))
        except queue.Full:
            raise Overloaded(f"{self._jobs.maxsize} requests are waiting for the model; try again later") from None
        return await asyncio.wrap_future(future)

    def close(self, timeout_s: float) -> None:
        """Ends the thread after what is queued; waits at most `timeout_s` for it."""
        try:
            self._jobs.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:  # handed to the caller, whatever it is
        future.set_exception(error)
