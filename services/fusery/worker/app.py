"""The Celery application. The broker carries ids and nothing else; it is never the truth about what is done.

Kombu's Redis transport can lose a message and deliver one twice, so completion is read from the store and lost
work is published again by the coordinator; tasks are idempotent. Hence also: results are ignored. A message's headers
carry the trace that it belongs to.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from fusery import tracing
from fusery.errors import ConfigError
from fusery.settings import settings
from fusery.telemetry import set_up_logging
from fusery.worker.plan import Hop

LONGEST_TASK_S = 3600
TASK_NAME = {hop: f"fusery.{hop.value}_shard" for hop in Hop}
"""One task and one queue a hop, so that GPU-bound capture and CPU-bound alignment scale apart."""


def make_app(broker_url: str) -> Celery:
    """An app on `broker_url`, set up so that a killed process costs time and nothing else."""
    app = Celery("fusery", broker=broker_url)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        # A message is acknowledged when its task ends, and again queued when the child that ran it dies:
        # acks_late alone loses the task of a killed child.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # Nothing waits in a busy process while another one idles.
        worker_prefetch_multiplier=1,
        # A task longer than the visibility timeout starts a second time while the first still runs, so it is
        # longer than any task; the two others end it on time, kombu's defaults 80 s late. The coordinator does not
        # wait for it: it publishes again what is lost.
        broker_transport_options={
            "visibility_timeout": 2 * LONGEST_TASK_S,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 5,
        },
        task_time_limit=LONGEST_TASK_S,
        # gRPC channels and arrow's threads must not exist before a fork: children start afresh.
        worker_pool_start_method="spawn",
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # A worker that is told to stop finishes its shard if that takes less than this.
        worker_soft_shutdown_timeout=20,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry_on_startup=True,
        task_default_queue=Hop.ALIGN.value,
        task_routes={name: {"queue": hop.value} for hop, name in TASK_NAME.items()},
    )
    return app


def app_from_environment() -> Celery:
    """The app of this process, on FUSERY_BROKER_URL.

    Raises:
        ConfigError: the variable is not set.
    """
    broker_url = settings().broker_url
    if broker_url is None:
        raise ConfigError("FUSERY_BROKER_URL is not set; a worker needs the address of its broker, redis://…")
    return make_app(broker_url.get_secret_value())


def _hand_trace_on(headers: dict[str, Any], **_: Any) -> None:
    headers.setdefault(tracing.HEADER, tracing.outgoing())


def _set_up_process(**_: Any) -> None:
    # A child starts afresh, without the set-up of the process that the user started; Celery's own has neither our
    # format nor our traces.
    set_up_logging("worker", settings().log_level, settings().log_format)


def _finish_process(**_: Any) -> None:
    # Children end without running what is registered with atexit.
    tracing.stop()


for _name in TASK_NAME.values():
    signals.before_task_publish.connect(_hand_trace_on, sender=_name)
signals.setup_logging.connect(_set_up_process)
signals.worker_process_shutdown.connect(_finish_process)
