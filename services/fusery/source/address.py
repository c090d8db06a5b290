"""Where source servers are: one, a list of them, or a DNS name with one server behind each of its addresses.

A list is one channel a server, taken in turn by the client and not by gRPC: every name is resolved again when its
server moves, TLS checks every server's own name, and an error says which one it comes from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fusery.runtime.errors import AddressError

_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^\s\[\]:/,]+):([0-9]{1,5})")
_DNS = "dns:///"
FORMS = "host:port, a list host:port,host:port or dns:///name:port"


@dataclass(frozen=True, slots=True)
class Address:
    """gRPC targets, at least one. `balanced`: one target that stands for several servers, gRPC takes them in turn."""

    targets: tuple[str, ...]
    balanced: bool = False


def parse_address(text: str) -> Address:
    """The servers that an address of a source stands for.

    Raises:
        AddressError: it has none of the three forms, or names a server twice.
    """
    if text.startswith(_DNS):
        return Address((_DNS + _server(text.removeprefix(_DNS), text),), balanced=True)
    servers = tuple(_server(part.strip(), text) for part in text.split(","))
    twice = next((server for server in servers if servers.count(server) > 1), None)
    if twice is not None:
        raise AddressError(f"address {text!r}: {twice} stands twice; name every server once")
    return Address(servers)


def _server(part: str, whole: str) -> str:
    found = _SERVER.fullmatch(part)
    if found is None:
        raise AddressError(f"address {whole!r}: {part!r} is no server; expected {FORMS}")
    if not 1 <= int(found[2]) <= 65_535:
        raise AddressError(f"address {whole!r}: the port is {found[2]}, expected 1 to 65535")
    return part


@dataclass(slots=True)
class RoundRobin:
    """Whose turn it is among `count` servers. One that failed rests, so that not every round pays for it."""

    count: int
    next_turn: int = 0
    rest_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    _awake_at: dict[int, float] = field(default_factory=dict)

    def take(self) -> int:
        """The next server that does not rest; if all rest, the one that has rested longest."""
        now = self.clock()
        order = [(self.next_turn + step) % self.count for step in range(self.count)]
        awake = (server for server in order if self._awake_at.get(server, now) <= now)
        chosen = next(awake, None)
        if chosen is None:
            chosen = min(order, key=lambda server: self._awake_at[server])
        self.next_turn = (chosen + 1) % self.count
        return chosen

    def failed(self, server: int) -> bool:
        """Whether another server can be asked at once, for one is left that did not fail of late."""
        now = self.clock()
        self._awake_at[server] = now + self.rest_s
        return any(self._awake_at.get(other, now) <= now for other in range(self.count))

    def answered(self, server: int) -> None:
        self._awake_at.pop(server, None)
