"""The Celery application. The broker carries ids and nothing else; it is never the truth about what is done.

Kombu's Redis transport can lose a message and deliver one twice, so completion is read from the store and lost
work is published again by the coordinator; tasks are idempotent. Hence also: results are ignored. A message's headers
carry the trace that it belongs to.

A worker's main process touches a heartbeat file while it takes tasks of its broker. Kubernetes asks by the file's age,
for a Celery worker listens on no port. The beat runs in the consumer's event loop, so it ends with what a restart
cures: a loop that hangs, or a consumer that does not come back after its broker did. While the broker is away there is
no beat either; what reads the file must be patient enough for that.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps, signals
from celery.worker.consumer.tasks import Tasks

from fusery.hops.plan import Hop
from fusery.hops.worker.broker import tls
from fusery.hops.worker.messages import TASK_NAME as TASK_NAME
from fusery.hops.worker.transport import use_transport
from fusery.runtime import tracing
from fusery.runtime.errors import ConfigError
from fusery.runtime.settings import settings
from fusery.runtime.telemetry import set_up_logging

log = logging.getLogger(__name__)

LONGEST_TASK_S = 3600


def make_app(broker_url: str) -> Celery:
    """An app on `broker_url`, set up so that a killed process costs time and nothing else."""
    use_transport()
    app = Celery("fusery", broker=broker_url)
    app.conf.update(**_messages(), **_broker(), **_processes(), broker_use_ssl=tls(broker_url))
    return app


def _messages() -> dict[str, Any]:
    """What travels, and when it counts as taken."""
    return {
        # No result backend: what is done stands in the store.
        "task_ignore_result": True,
        # Ids only, as JSON; anything else is refused before it is decoded.
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": Hop.ALIGN.value,
        "task_routes": {name: {"queue": hop.value} for hop, name in TASK_NAME.items()},
        # A message is acknowledged when its task ends, and queued again when the child that ran it dies: acks_late
        # alone loses the task of a killed child. The coordinator would find it too, 20 s later.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A hung task ends; its process is replaced and the attempt counted.
        "task_time_limit": LONGEST_TASK_S,
        # Nothing waits in a busy process while another one idles.
        "worker_prefetch_multiplier": 1,
    }


def _broker() -> dict[str, Any]:
    return {
        # A worker outlives a broker that is away for however long; Celery's default gives up after 100 attempts.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A shard that is worked on while the connection goes is finished: the store takes it, and the message that
        # comes again finds it there.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            # A task longer than the visibility timeout starts a second time while the first still runs, so it is
            # longer than any task. The coordinator does not wait for it: it publishes again what is lost. The two
            # others make the return punctual, kombu's defaults are 80 s late.
            "visibility_timeout": 2 * LONGEST_TASK_S,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            # Later hops first: what can be finished is finished before other work is begun.
            "queue_order_strategy": "priority",
            # A machine that vanished closes no connection. Without a timeout a command waits for ever; it is longer
            # than any that the transport waits for on purpose (BRPOP, 1 s).
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    }


def _processes() -> dict[str, Any]:
    return {
        # A child inherits what the worker has imported, so one that was killed is replaced in a moment. gRPC channels
        # and arrow's threads must not exist before a fork: the worker itself opens no channel and reads no shard.
        "worker_pool_start_method": "fork",
        # A child that grew over this is replaced after its task (KiB): caches of tokenizers and maps, and what an
        # allocator never gives back, stay bounded over any number of shards.
        "worker_max_memory_per_child": 2 * 1024 * 1024,
        # A worker that is told to stop finishes its shards if that takes less than this; others go back to the queue.
        "worker_soft_shutdown_timeout": 20,
        "worker_enable_soft_shutdown_on_idle": False,
        # A child that is not up in time is killed, and busy machines are slow.
        "worker_proc_alive_timeout": 120.0,
        "worker_hijack_root_logger": False,
        # Nothing listens; progress is read from the store.
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
    }


def broker_url() -> str:
    """FUSERY_BROKER_URL.

    Raises:
        ConfigError: the variable is not set.
    """
    url = settings().broker_url
    if url is None:
        raise ConfigError("FUSERY_BROKER_URL is not set; a worker needs the address of its broker, redis://…")
    return url.get_secret_value()


def app_from_environment() -> Celery:
    """The app of this process, on FUSERY_BROKER_URL.

    Raises:
        ConfigError: the variable is not set.
    """
    return make_app(broker_url())


def _hand_trace_on(headers: dict[str, Any], **_: Any) -> None:
    headers.setdefault(tracing.HEADER, tracing.outgoing())


def _keep_logging(**_: Any) -> None:
    # Celery leaves logging alone when this signal has a receiver; its own set-up has not our format.
    pass


def _set_up_process(**_: Any) -> None:
    # A tracer's threads and channel belong to one process, so each child has its own.
    set_up_logging("worker", settings().log_level, settings().log_format)


def _finish_process(**_: Any) -> None:
    # Children end without running what is registered with atexit.
    tracing.stop()


for _name in TASK_NAME.values():
    signals.before_task_publish.connect(_hand_trace_on, sender=_name)
signals.setup_logging.connect(_keep_logging)
signals.worker_process_init.connect(_set_up_process)
signals.worker_process_shutdown.connect(_finish_process)


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
