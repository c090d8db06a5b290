"""`fusery worker`: a Celery worker that serves the queues of the given hops until it is told to stop."""

from __future__ import annotations

from collections.abc import Sequence

from fusery.errors import ConfigError
from fusery.settings import settings
from fusery.worker.plan import Hop


def run_worker(processes: int, hops: Sequence[str]) -> None:
    """Blocks until SIGTERM; running tasks are finished within the grace period.

    Raises:
        ConfigError: an unknown hop, or FUSERY_BROKER_URL or FUSERY_STORE is not set.
    """
    known = [hop.value for hop in Hop]
    unknown = [hop for hop in hops if hop not in known]
    if unknown:
        raise ConfigError(f"--hops: {unknown[0]!r} is no hop; expected some of {','.join(known)}")
    if processes < 1:
        raise ConfigError(f"--processes: got {processes}, expected at least 1")
    if settings().store is None:
        raise ConfigError("FUSERY_STORE is not set; a worker needs the store of its runs")
    from fusery.worker.tasks import app

    app.worker_main(
        [
            "worker",
            "--pool=prefork",
            f"--concurrency={processes}",
            f"--queues={','.join(hops)}",
            f"--loglevel={settings().log_level.upper()}",
            "--without-gossip",
            "--without-mingle",
        ]
    )
