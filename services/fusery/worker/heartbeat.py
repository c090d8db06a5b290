"""A file that tells from outside that a worker lives: its main process touches it while it takes tasks of its broker.

Kubernetes asks by the file's age, for a Celery worker listens on no port. The beat runs in the consumer's event loop,
so it ends with what a restart cures: a loop that hangs, or a consumer that does not come back after its broker did.
While the broker is away there is no beat either; whoever reads the file must be patient enough for that.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps
from celery.worker.consumer.tasks import Tasks

log = logging.getLogger(__name__)

BEAT_S = 15.0


def add_heartbeat(app: Celery, file: Path) -> None:
    """From its next start on, a worker of `app` touches `file` every BEAT_S seconds; children don't."""
    app.steps["consumer"].add(_step(file))


def _step(file: Path) -> type[bootsteps.StartStopStep]:
    # Celery makes the steps itself, of classes, so what a step needs is bound here.
    class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
        """Starts when the consumer has subscribed to its queues, again after each connection that was lost."""

        requires = (Tasks,)

        def __init__(self, consumer: Any, **options: Any) -> None:
            super().__init__(consumer, **options)
            self._timer: Any = None

        def start(self, consumer: Any) -> None:
            touch(file)
            self._timer = consumer.timer.call_repeatedly(BEAT_S, touch, (file,))

        def stop(self, _consumer: Any) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        shutdown = stop

    return Heartbeat


def touch(file: Path) -> None:
    """Makes `file` as young as now; a place that can't be written is logged, for tasks are worth more than a beat."""
    try:
        file.touch()
    except OSError as error:
        log.warning("heartbeat file %s can't be written: %s; the worker goes on", file, error.strerror or error)
