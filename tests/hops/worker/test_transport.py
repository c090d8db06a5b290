"""The mended transport: a broken connection at an acknowledgement costs no place in the prefetch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport import get_transport_cls
from kombu.transport import redis as kombu_redis

from fusery.hops.worker.transport import QoS, Transport, use_transport


class Away(Exception):
    """The connection is gone."""


class Pipe:
    def __getattr__(self, _name: str) -> Any:
        def command(*_: object) -> Pipe:
            return self

        return command

    def execute(self) -> None:
        raise Away


def full(kind: type[Any]) -> Any:
    """What has delivered as much as it may."""
    channel = SimpleNamespace(
        unacked_key="a",
        unacked_index_key="b",
        connection=SimpleNamespace(client=SimpleNamespace(transport_options={})),
        do_restore=False,
    )
    qos = kind(channel, prefetch_count=1)
    qos._quick_append("tag", object())
    qos._remove_from_indices = lambda *_: Pipe()

    def away(*_: object, **__: object) -> None:
        raise Away

    qos.restore_by_tag = away
    assert not qos.can_consume()
    return qos


@pytest.mark.parametrize("way", ["ack", "reject", "requeue"])
@pytest.mark.parametrize(("kind", "goes_on"), [(QoS, True), (kombu_redis.QoS, False)])
def test_a_failed_acknowledgement_gives_its_place_back_as_kombu_does_not(
    kind: type[Any], goes_on: bool, way: str
) -> None:
    qos = full(kind)
    with pytest.raises(Away):
        qos.ack("tag") if way == "ack" else qos.reject("tag", requeue=way == "requeue")
    assert qos.can_consume() is goes_on


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_the_transport_is_used_for_every_address_of_redis(scheme: str) -> None:
    use_transport()
    assert get_transport_cls(scheme) is Transport


def test_a_message_of_a_killed_process_goes_to_the_front_of_its_queue() -> None:
    qos = full(QoS)
    given: list[dict[str, object]] = []
    qos.restore_by_tag = lambda _tag, **options: given.append(options)
    qos.reject("tag", requeue=True)
    assert given == [{"leftmost": False}]
    assert qos.can_consume()
