"""A fleet of replicas on `wire`, each of which answers as it is told, at once: no sockets, no loop, no time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.support.wire import ClientWire, FakeTransport, Wire
from warmroute.core.fleet.fleet import ProbeFailed, ProbeSucceeded
from warmroute.core.fleet.replica import Replica
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.pool import Pool
from warmroute.dataplane.upstream import ReplicaConnection

USAGE = b'"usage":{"prompt_tokens":11,"total_tokens":12,"completion_tokens":1,"prompt_tokens_details":'
OK = b'{"id":"c","choices":[],' + USAGE + b'{"cached_tokens":3}}}'
DIES = b""
"""The connection breaks, and nothing listens there afterwards."""
BREAKS = b"!"
"""The connection breaks; the replica is well."""


def plain(status: int, body: bytes = b"{}", fields: bytes = b"") -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        fields,
        len(body),
        body,
    )


class LivePool(Pool):
    """Connects at once."""

    def connect(self, exchange: Exchange) -> None:
        connection = ReplicaConnection(self)
        connection.connection_made(FakeTransport())
        self.all.add(connection)
        exchange.connected(connection)


class DeadPool(Pool):
    """Nothing listens there."""

    def take(self) -> ReplicaConnection | None:
        return None

    def connect(self, exchange: Exchange) -> None:
        exchange.connect_failed("connection refused", refused=True)


class WireFleet:
    """Replicas with scripts: what each answers to a body."""

    def __init__(self, replicas: int, **settings: Any) -> None:
        self.wire = Wire(replicas=replicas, **settings)
        self.gateway = self.wire.gateway
        self.replicas = self.wire.replicas
        self.scripts: list[Callable[[bytes], bytes]] = [lambda _: plain(200, OK)] * replicas
        self.served: list[int] = []
        """Which replicas had the requests, in order."""
        self.dead: set[int] = set()
        for replica in self.replicas:
            self._put(LivePool, replica)

    def _put(self, kind: type[Pool], replica: Replica) -> None:
        self.gateway.pools[replica] = kind(
            replica.url,
            tasks=self.gateway.tasks,
            tls=None,
            size=256,
            keepalive_s=60.0,
            connect_timeout_s=1.0,
        )

    def answer(self, number: int, answer: bytes) -> None:
        """From now on this replica answers so."""
        self.scripts[number] = lambda _: answer

    def probe(self, *numbers: int, restarted: bool = False) -> None:
        """A probe looks at these replicas, or at all."""
        for number in numbers or range(len(self.replicas)):
            replica = self.replicas[number]
            if number in self.dead:
                event = ProbeFailed(replica.id, "refused", time.time())
                self.wire.worker.fleet.apply(event)
            elif restarted:
                self.wire.restart(number)
            else:
                assert replica.incarnation is not None
                self.wire.worker.fleet.apply(
                    ProbeSucceeded(replica.id, replica.incarnation, None, None, None, time.time(), True)
                )

    def revive(self, number: int) -> None:
        """Its process is started again."""
        self.dead.discard(number)
        self._put(LivePool, self.replicas[number])
        self.probe(number, restarted=True)

    def begin(
        self, body: dict[str, Any] | str, path: str = "/v1/chat/completions", client: ClientWire | None = None
    ) -> tuple[ClientWire, Exchange]:
        """Send a request, and answer nothing yet."""
        if isinstance(body, str):
            body = {"model": "m", "messages": [{"role": "user", "content": body}]}
        data = json.dumps(body).encode()
        client = client or self.wire.connect()
        client.feed(
            b"POST %b HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
        )
        exchange = client.connection.exchange
        assert exchange is not None or client.output
        return client, exchange  # type: ignore[return-value]

    def replica_of(self, exchange: Exchange) -> int:
        """Where it is now."""
        assert exchange.decision is not None
        return self.replicas.index(exchange.decision.replica)

    def reply(self, exchange: Exchange) -> None:
        """The replica that has it answers by its script."""
        number = self.replica_of(exchange)
        connection = exchange.connection
        assert connection is not None
        self.served.append(number)
        written: bytearray = connection.transport.written  # type: ignore[attr-defined]
        answer = self.scripts[number](bytes(written))
        written.clear()
        if answer == DIES:
            self.kill(number)
        elif answer == BREAKS:
            connection.connection_lost(ConnectionResetError("reset"))
        else:
            connection.data_received(answer)

    def kill(self, number: int) -> None:
        """The process ends, and with it all its connections."""
        replica = self.replicas[number]
        pool = self.gateway.pool(replica)
        self.dead.add(number)
        self._put(DeadPool, replica)
        for connection in list(pool.all):
            connection.connection_lost(ConnectionResetError("reset"))

    def ask(self, body: dict[str, Any] | str, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
        """A request and its whole way. Returns status and body."""
        client, exchange = self.begin(body, path)
        while client.connection.exchange is exchange and exchange is not None:
            self.reply(exchange)
        head, _, answer = client.output.partition(b"\r\n\r\n")
        return int(head[9:12]), answer

    def statuses(self, bodies: list[str]) -> list[int]:
        """Ask one after the other."""
        return [self.ask(body)[0] for body in bodies]

    def holders(self, exchange: Exchange) -> set[int]:
        """Which replicas the registry names for any part of this request's prompt."""
        assert exchange.shape is not None
        records = self.gateway.registry.lookup(exchange.shape.rungs, lambda _: None)
        lives = {r.incarnation: number for number, r in enumerate(self.replicas)}
        return {lives[life] for record in records or [] if record for life, _ in record if life in lives}


def ready(replica: Replica) -> bool:
    """Whether it is."""
    return replica.state.value == "ready"
