"""How a source server meets the network: ports, TLS, what a connection may do and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from fusery.errors import ConfigError
from fusery.source.api import MAX_MESSAGE_BYTES
from fusery.source.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Front:
    """Ports None: not opened, 0: a free one.

    `health_port` answers health checks alone, in plain text, for probes that know no TLS. `hang_s`: a computation
    that takes longer counts as hanging. `max_connection_age_s`: clients connect anew after it, so that they find new
    servers and take new certificates; calls that are running get `connection_grace_s`, longer than any should take.
    """

    tls: ServerTls | None = None
    health_port: int | None = None
    metrics_port: int | None = None
    reflection: bool = False
    hang_s: float = 600.0
    max_request_bytes: int = 16 << 20
    max_connection_age_s: float = 1800.0
    connection_grace_s: float = 660.0
    max_connection_idle_s: float = 900.0

    def __post_init__(self) -> None:
        times = (self.hang_s, self.max_connection_age_s, self.connection_grace_s, self.max_connection_idle_s)
        if min(times) <= 0:
            raise ConfigError(f"times of the source server {times}: expected seconds over 0")
        if not 1 <= self.max_request_bytes <= MAX_MESSAGE_BYTES:
            raise ConfigError(f"max_request_bytes: got {self.max_request_bytes}, expected 1 to {MAX_MESSAGE_BYTES}")

    def options(self) -> tuple[tuple[str, int], ...]:
        """gRPC's options."""
        return (
            ("grpc.max_receive_message_length", self.max_request_bytes),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Two servers on one port would share its calls at random; the second must fail.
            ("grpc.so_reuseport", 0),
            # Clients ping every 30 s to find out that a machine is gone; by default that counts as abuse.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # And a client that is gone must not keep its place in the queue.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.max_connection_age_ms", round(self.max_connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", round(self.connection_grace_s * 1000)),
            ("grpc.max_connection_idle_ms", round(self.max_connection_idle_s * 1000)),
        )
