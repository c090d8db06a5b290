"""The coordinator's side of the broker: publishes tasks, asks how long a queue is, outlives a broker that is away.

One connection, thrown away at the first error: what a pool keeps after a restart of the broker is stale, and every
stale connection costs a failure of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from kombu.exceptions import ChannelError, OperationalError

from fusery.hops.plan import Hop, ShardTask
from fusery.hops.worker.app import TASK_NAME, make_app

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

_TIMEOUT_S = 5


class Publisher:
    """Publishes the tasks of one launch of a run. Use as a context manager."""

    def __init__(self, broker_url: str, run_id: str, launch: str) -> None:
        self._app = make_app(broker_url)
        # Of this process only, which waits for nothing on purpose: a broker that hangs must not hold up the look.
        options = self._app.conf.broker_transport_options
        self._app.conf.broker_transport_options = {**options, "socket_timeout": _TIMEOUT_S}
        self._run_id, self._launch = run_id, launch
        self._connection: Any = None
        self._is_away = False

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def publish(self, task: ShardTask, failures: int) -> bool:
        """Whether the broker took the task; `failures`: how often it was tried in vain."""
        arguments = [self._run_id, self._launch, task.source, task.shard, failures]

        def send(connection: Any) -> bool:
            queue = task.hop.value
            self._app.send_task(TASK_NAME[task.hop], args=arguments, queue=queue, retry=False, connection=connection)
            return True

        return bool(self._asked(send))

    def queue_is_empty(self, hop: Hop) -> bool | None:
        """Whether no message of the hop waits at the broker; None: the broker does not say."""

        def count(connection: Any) -> bool:
            try:
                asked = connection.default_channel.queue_declare(hop.value, passive=True)
            except ChannelError:
                # An empty list is no list to Redis.
                return True
            return int(asked.message_count) == 0

        return self._asked(count)

    def _asked(self, ask: Callable[[Any], Answer]) -> Answer | None:
        """The broker's answer; None: it is away now."""
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_write()
            answer = ask(self._connection)
        except Exception as error:
            # Kombu and redis-py raise a dozen classes for it, and kombu's list of them depends on the connection.
            self._drop()
            if not _is_broker_error(error):
                raise
            if not self._is_away:
                log.warning("the broker is away: %s; what is missing is published when it is back", error)
            self._is_away = True
            return None
        if self._is_away:
            log.warning("the broker is back")
        self._is_away = False
        return answer

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception as error:
                if not _is_broker_error(error):
                    raise


def _is_broker_error(error: Exception) -> bool:
    import redis

    return isinstance(error, OperationalError | OSError | redis.RedisError)
