"""The data plane without sockets: real client and replica connections over transports that are plain objects.

A `Wire` has healthy replicas and as many connections to each as are asked for; bytes go in by `ClientWire.feed` and
`reply`, and come out as `ClientWire.output` and `upstream_requests`. Nothing waits and no loop runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import httptools

from warmroute.app import Worker
from warmroute.config.schema import (
    Address,
    Config,
    FeedbackConfig,
    LimitsConfig,
    ReplicaConfig,
    RetriesConfig,
)
from warmroute.core.fleet.fleet import ProbeSucceeded, ReplicaAdded
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.dataplane.downstream import ClientConnection
from warmroute.dataplane.upstream import ReplicaConnection

REPLICA = ReplicaId("10.0.0.1:8000")


class FakeTransport(asyncio.Transport):
    """Keeps what is written; never blocks unless told."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.9.9.9", 5)})
        self.written = bytearray()
        self.reading = True
        self.closed = False
        self.aborted = False
        self.protocol: Any = None
        self.unsent_bytes = 0

    def write(self, data: object) -> None:
        assert not self.closed, "written after the close"
        self.written += cast(bytes, data)

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class ClientWire:
    """One client connection."""

    def __init__(self, wire: Wire) -> None:
        self.transport = FakeTransport()
        self.connection = ClientConnection(wire.worker.gateway)
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)

    def feed(self, data: bytes) -> None:
        """One read of the router's, as long as it reads at all."""
        view = memoryview(data)
        while len(view) and not self.transport.closed:
            protocol = self.transport.protocol
            if not hasattr(protocol, "get_buffer"):  # its own, or a tunnel's
                protocol.data_received(bytes(view))
                return
            buffer = protocol.get_buffer(len(view))
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            del buffer
            view = view[count:]
            protocol.buffer_updated(count)

    @property
    def output(self) -> bytes:
        """Everything written to the client so far."""
        return bytes(self.transport.written)

    def lose(self) -> None:
        """The client is gone."""
        self.transport.closed = True
        self.connection.connection_lost(None)


class Wire:
    """A router's data plane with one replica, or several, that serve the models `m` and `tiny`."""

    def __init__(
        self,
        limits: LimitsConfig | None = None,
        *,
        explain: bool = True,
        ask_usage: bool = True,
        replicas: int = 1,
        **settings: Any,
    ) -> None:
        settings.setdefault("retries", RetriesConfig(backoff_s=0.0))  # there is no loop that could wait
        ids = [ReplicaId(f"10.0.0.{number + 1}:8000") for number in range(replicas)]
        config = Config(
            listen=Address("127.0.0.1:0"),
            admin=Address("127.0.0.1:0"),
            replicas=tuple(ReplicaConfig(url=f"http://{replica_id}") for replica_id in ids),
            limits=limits or LimitsConfig(),
            feedback=FeedbackConfig(ask_usage=ask_usage),
            **settings,
        )
        self.worker = Worker(config)
        self.gateway = self.worker.gateway
        self.gateway.explain_headers = explain
        fleet = self.worker.fleet
        models = {name: {"id": name} for name in ("m", "tiny", "alpha")}
        for number, replica_id in enumerate(ids):
            fleet.apply(ReplicaAdded(replica_id, f"http://{replica_id}"))
            life = Incarnation(number + 1)
            fleet.apply(ProbeSucceeded(replica_id, life, models, None, None, time.time(), life_told=True))
        self.replicas = [fleet.replicas[replica_id] for replica_id in ids]
        self._replica = self.replicas[0]
        self._models = models
        self.upstreams: list[tuple[ReplicaConnection, FakeTransport]] = []

    def restart(self, number: int = 0) -> None:
        """The replica is found to have another life."""
        replica = self.replicas[number]
        life = Incarnation((replica.incarnation or 0) + 1000)
        event = ProbeSucceeded(replica.id, life, self._models, None, None, time.time(), life_told=True)
        self.worker.fleet.apply(event)

    def probed(self, replica: Replica, now_s: float) -> None:
        """Its health was asked for, and is fine."""
        life = replica.incarnation
        event = ProbeSucceeded(replica.id, life, self._models, None, None, now_s, life_told=True)
        self.worker.fleet.apply(event)

    def connect(self) -> ClientWire:
        """A new client."""
        return ClientWire(self)

    def add_upstream(self, number: int = 0) -> tuple[ReplicaConnection, FakeTransport]:
        """An idle connection to the replica, which its next request takes."""
        pool = self.gateway.pool(self.replicas[number])
        connection = ReplicaConnection(pool)
        transport = FakeTransport()
        connection.connection_made(transport)
        connection.idle_since_s = time.monotonic() + 1e6
        pool.all.add(connection)
        pool.release(connection)
        self.upstreams.append((connection, transport))
        return connection, transport

    def drop_upstreams(self) -> None:
        """Forget all connections to replicas."""
        for replica in self.replicas:
            pool = self.gateway.pool(replica)
            pool.idle.clear()
            pool.all.clear()
        self.upstreams.clear()

    def at_rest(self) -> bool:
        """Whether every counter is back where it was."""
        self.worker.fleet.validate()
        return self.gateway.buffered_bytes == 0 and not any(
            replica.in_flight or replica.waiting or replica.waiting_tokens for replica in self.replicas
        )


class ParsedAnswers:
    """Answers as an independent reading of the bytes (llhttp's) finds them."""

    def __init__(self, data: bytes) -> None:
        self.complete = 0
        self._read: list[tuple[int, list[tuple[bytes, bytes]], bytearray]] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    @property
    def answers(self) -> list[tuple[int, list[tuple[bytes, bytes]], bytes]]:
        """Status, fields by lower-case name, and body, of each answer whose head is there."""
        return [(status, fields, bytes(body)) for status, fields, body in self._read]

    def on_message_begin(self) -> None:
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._read.append((self._parser.get_status_code(), list(self._fields), bytearray()))

    def on_body(self, piece: bytes) -> None:
        self._read[-1][2].extend(piece)

    def on_message_complete(self) -> None:
        self.complete += 1


OURS = frozenset(
    (
        b"x-request-id",
        b"request-id",
        b"x-warmroute-replica",
        b"x-warmroute-decision",
        b"x-warmroute-predicted-cached-tokens",
        b"content-length",
        b"transfer-encoding",
        b"connection",
    )
)
"""Answer fields that the router writes anew or adds."""


def end_to_end(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The fields that must arrive as they were sent."""
    return [field for field in fields if field[0] not in OURS]
