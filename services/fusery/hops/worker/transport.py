"""Kombu's Redis transport with two habits mended: a failed acknowledgement costs a place, and a returned message waits.
It also takes the password from a file, where one is named, and no message but fusery's own (`messages`): one that kombu
can't read ends a worker.

Kombu 5.7 keeps the place of a message whose acknowledgement met a broken connection. With as many such messages as the
worker has processes it asks for no message any more, so it does not even notice that the connection is gone: a broker
that restarts at the moment when a task ends stops the worker for good. The place is given back here; the next request
for messages meets the broken connection, and Celery connects anew. The message itself comes again after the visibility
timeout, and finds its shard done.

A message whose process was killed goes to the front of its queue, where kombu puts it behind all others: a shard that
was nearly done must not wait for a whole queue.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from fusery.hops.plan import Hop
from fusery.hops.worker.broker import PasswordFile
from fusery.hops.worker.messages import rewritten, rewritten_unacked
from fusery.runtime.settings import settings

_QUEUES = {hop.value.encode() for hop in Hop}
_PRIORITY = redis.Channel.sep.encode()
"""Between a queue's name and a message's priority."""


class QoS(redis.QoS):
    """What a channel has delivered and is not told the end of."""

    def ack(self, delivery_tag: str) -> None:
        try:
            self._remove_from_indices(delivery_tag).execute()  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            if requeue:
                # Kombu's "leftmost" is the end of the queue: BRPOP takes from the right.
                self.restore_by_tag(delivery_tag, leftmost=False)  # type: ignore[no-untyped-call]
            else:
                self._remove_from_indices(delivery_tag).execute()  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    QoS: Any = QoS

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        client.set_response_callback("BRPOP", _taken)
        # Of the hash of delivered messages, when one goes back to its queue.
        client.set_response_callback("HGET", lambda item, **_: rewritten_unacked(item))
        return client

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Keywords of each connection; a password that stands in a file is read when one is made."""
        given: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        file = settings().broker_password_file
        if file is not None and not given["password"]:
            given["credential_provider"] = PasswordFile(file, given.pop("username"))
            del given["password"]
        return given


def _taken(answer: Any, **_: Any) -> tuple[bytes, bytes] | None:
    """Queue and message; None, as if nothing waited, in place of one in a hop's queue that is none of fusery's."""
    if not answer or answer[0].split(_PRIORITY)[0] not in _QUEUES:
        return answer and tuple(answer)
    item = rewritten(answer[1])
    return None if item is None else (answer[0], item)


class Transport(redis.Transport):
    Channel: Any = Channel


def use_transport() -> None:
    """Connections to redis:// and rediss:// of this process use this transport from now on.

    By their names, and not by Celery's `broker_transport`: with that, kombu skips what it does for rediss://.
    """
    name = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update({"redis": name, "rediss": name})
