"""`fusery worker`: a Celery worker that serves the queues of the given hops until it is told to stop."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Sequence

from fusery.hops.plan import Hop
from fusery.runtime.errors import ConfigError
from fusery.runtime.settings import set_variables, settings

_BROKER_TIMEOUT_S = 30.0


def run_worker(processes: int, hops: Sequence[str]) -> None:
    """Blocks until SIGTERM; running tasks are finished within the grace period.

    Raises:
        ConfigError: an unknown hop, or FUSERY_BROKER_URL or FUSERY_STORE is not set.
        AddressError: the broker refuses, or does not answer within 30 s.
    """
    known = [hop.value for hop in Hop]
    unknown = [hop for hop in hops if hop not in known]
    if unknown:
        raise ConfigError(f"--hops: {unknown[0]!r} is no hop; expected some of {','.join(known)}")
    if processes < 1:
        raise ConfigError(f"--processes: got {processes}, expected at least 1")
    if settings().store is None:
        raise ConfigError("FUSERY_STORE is not set; a worker needs the store of its runs")
    # SIGTERM as a soft shutdown, which ends; Celery's own answer waits for the last task, however long it takes. Read
    # when Celery is imported, here and in the children. Hops compute on the CPU: a GPU belongs to a source.
    set_variables(REMAP_SIGTERM="SIGQUIT", CUDA_VISIBLE_DEVICES="")
    from fusery.hops.worker.app import add_heartbeat, broker_url
    from fusery.hops.worker.broker import wait_for_broker

    wait_for_broker(broker_url(), _BROKER_TIMEOUT_S)
    # At every lost connection: that unfinished tasks are not cancelled then, which is what is wanted.
    warnings.filterwarnings("ignore", "In Celery 5.1 we introduced", category=PendingDeprecationWarning)
    from fusery.hops.worker.tasks import app
    from fusery.runtime import tracing

    import_for_children()
    # A collector's channel must not exist before a fork; each child opens its own.
    tracing.stop()

    heartbeat = settings().worker_heartbeat_file
    if heartbeat is not None:
        add_heartbeat(app, heartbeat)
    # Later hops first; the broker's queues are asked in this order.
    in_order = [hop for hop in reversed(known) if hop in hops]
    app.worker_main(
        [
            "worker",
            "--pool=prefork",
            f"--concurrency={processes}",
            f"--queues={','.join(in_order)}",
            f"--loglevel={settings().log_level.upper()}",
            "--without-gossip",
            "--without-mingle",
        ]
    )


def import_for_children() -> None:
    """What a task would import at its first shard: two seconds of every child, and its own copy in memory.

    Arrow imports pandas, where it is installed, at the first column that is made of a list.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("pandas")
