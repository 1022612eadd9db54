"""Routers on `wire` that ask for keys, and what stands in for a limiter that answers when it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.wire import ClientWire
from tests.support.wire_fleet import WireFleet
from warmroute.config.schema import AllowanceConfig, KeysConfig, TenantConfig
from warmroute.dataplane.exchange import Exchange
from warmroute.tenancy import tenants_of
from warmroute.tenants.keys import KeyRecord, digest_of
from warmroute.tenants.limits import Grant

KEYS = {"a": b"wr-aaaaaaaaaa-canary-key-of-a", "b": b"wr-bbbbbbbbbb-canary-key-of-b"}


def key_record(tenant: str, **fields: Any) -> KeyRecord:
    """The record of a tenant's key of `KEYS`."""
    return KeyRecord(id=f"id-{tenant}", tenant=tenant, sha256=digest_of(KEYS[tenant]).hex(), **fields)


class HeldLimiter:
    """Decides nothing by itself: what was asked of it is kept."""

    healthy = True
    own = None

    def __init__(self) -> None:
        self.asked: list[tuple[Grant, Callable[[], None]]] = []

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    def take(self, grant: Grant, done: Callable[[], None]) -> bool:
        self.asked.append((grant, done))
        return False

    def charge(self, scopes: Sequence[Any], cost_nano: int, at_s: float) -> None:
        return

    def statistics(self) -> dict[str, float]:
        return {}


class SlowLimiter(HeldLimiter):
    """Decides as it is told to, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[tuple[int, int]] = []

    def decide(self, granted: bool) -> None:
        grant, done = self.asked.pop(0)
        if granted:
            grant.granted = True
            grant.left_requests = 7
        else:
            grant.refuse(0, grant.scopes[0], 12.3)
        done()

    def settle(self, grant: Grant, requests: int, tokens: int, cost_nano: int = 0) -> None:
        assert not grant.settled
        grant.settled = True
        self.settled.append((requests, tokens))


class KeyedFleet(WireFleet):
    """A fleet whose router asks for keys, and knows those of `KEYS`."""

    def __init__(
        self, *tenants: TenantConfig, records: Sequence[KeyRecord] | None = None, **settings: Any
    ) -> None:
        replicas = settings.pop("replicas", 1)
        settings.setdefault("keys", KeysConfig(url="/nowhere/keys", upstream_key="canary-upstream"))
        super().__init__(replicas, tenants=tenants, **settings)
        admission = self.wire.worker.tenancy.admission
        assert admission is not None
        self.admission = admission
        self.use(records if records is not None else [key_record("a"), key_record("b")])

    def use(self, records: Sequence[KeyRecord]) -> None:
        """From now on these are good."""
        self.admission.keyring.use(records, tenants_of(self.wire.worker.config))
        self.admission.keys_known = True
        self.admission.forget()

    def send(
        self,
        fields: bytes = b"",
        body: dict[str, Any] | None = None,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        client: ClientWire | None = None,
    ) -> tuple[ClientWire, Exchange | None]:
        """A request with these header lines."""
        data = b""
        if method == "POST":
            data = json.dumps(
                body or {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            ).encode()
        client = client or self.wire.connect()
        client.feed(
            b"%b %b HTTP/1.1\r\nHost: r\r\n%bContent-Length: %d\r\n\r\n%b"
            % (method.encode(), path.encode(), fields, len(data), data)
        )
        return client, client.connection.exchange

    def answered(self, *arguments: Any, **named: Any) -> tuple[int, bytes, bytes]:
        """A request and its whole way: status, head, body."""
        client, exchange = self.send(*arguments, **named)
        while (
            exchange is not None
            and client.connection.exchange is exchange
            and exchange.connection is not None
        ):
            self.reply(exchange)
        head, _, body = client.output.partition(b"\r\n\r\n")
        return int(head[9:12]), head.lower(), body


def bearer(tenant: str) -> bytes:
    """The header line with a tenant's key."""
    return b"Authorization: Bearer %b\r\n" % KEYS[tenant]


def tenant(name: str = "a", **limits: int) -> TenantConfig:
    """A tenant with these limits."""
    return TenantConfig(id=name, limits=AllowanceConfig(**limits))
