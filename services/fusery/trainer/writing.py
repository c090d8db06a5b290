"""When checkpoints are written: at once, or beside the steps that follow.

Beside them where the tensors on the CPU are copies in any case, those of an accelerator: the training then waits for
the copy alone, and memory holds what it would hold anyway. On a CPU a copy takes as long as digest and write together
(4 s for each of the two at 135 M parameters), so there is nothing to win.

One checkpoint at a time: who has the next one waits for the one before. A process that ends, however it ends, leaves
whole checkpoints and at most one draft, for they become visible by a rename.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

log = logging.getLogger(__name__)


class Writer:
    """Carries out writes; leaving the block waits for the last one."""

    def __init__(self, *, beside: bool) -> None:
        self.beside = beside
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[object] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
            # Why the training ended is what its user wants to know first.
            log.exception("the last checkpoint could not be written either")
        finally:
            self._pool.shutdown()

    def write(self, write: Callable[[], object]) -> None:
        """Carries `write` out, now or beside what follows; raises what it, or the one before, raises."""
        self.wait()
        if self.beside:
            self._last = self._pool.submit(write)
        else:
            write()

    def check(self) -> None:
        """Raises what a write that has ended meanwhile raised."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last write has ended; raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
