"""A router over two replicas whose answers tests script."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.router_thread import RouterThread, running
from tests.support.scripted_upstream import (
    Connection,
    Received,
    Script,
    ScriptedUpstream,
)
from warmroute.config.schema import (
    Address,
    Config,
    HealthConfig,
    PolicyConfig,
    ReplicaConfig,
)

ANY = Address("127.0.0.1:0")
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": BODY,
    "/v1/completions": {"model": "m", "prompt": "hello"},
    "/v1/messages": BODY,
    "/v1/responses": {"model": "m", "input": "hello"},
}

HALF_EVENT = b'data: {"half": "an ev'


class Pair:
    """A router by round robin over two replicas whose scripts tests change."""

    def __init__(self, router: RouterThread, first: ScriptedUpstream, second: ScriptedUpstream) -> None:
        self.router = router
        self.first = first
        self.second = second

    def ask_both(self, path: str = "/v1/chat/completions") -> list[tuple[int, dict[str, str], bytes]]:
        """As many requests as there are replicas: each is the first choice once."""
        return [self.router.post(path, BODIES[path]) for _ in range(2)]

    @property
    def received(self) -> int:
        return len(self.first.received) + len(self.second.received)


@contextlib.contextmanager
def paired(**settings: Any) -> Iterator[Pair]:
    with ScriptedUpstream() as first, ScriptedUpstream() as second:
        values: dict[str, Any] = {
            "policy": PolicyConfig(name="round-robin"),
            "health": HealthConfig(failures=1000, probe_interval_s=0.2, probe_timeout_s=30.0),
            **settings,
        }
        config = Config(
            listen=ANY,
            admin=ANY,
            replicas=(ReplicaConfig(url=first.url, id=first.id), ReplicaConfig(url=second.url, id=second.id)),
            **values,
        )
        with running(config, 2) as router:
            yield Pair(router, first, second)


def sends(data: bytes, *, then: str = "close") -> Script:
    """A script that writes these bytes, then closes, resets, or goes on."""

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        if data:
            connection.send(data)
        if then == "reset":
            time.sleep(0.02)  # a reset overtakes what is on its way
            connection.reset()
        return then == "go on"

    return script


def raw_request(path: str, extra: str = "", body: Any = None) -> bytes:
    data = json.dumps(BODIES[path] if body is None else body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: r\r\n{extra}Content-Length: {len(data)}\r\n\r\n".encode() + data


class LaterRegistry:
    """Answers lookups when told; everything else as the registry it stands before."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind
        self.waiting: list[Callable[[Any], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def lookup(self, _rungs: Any, done: Callable[[Any], None]) -> None:
        self.waiting.append(done)

    def find_response(self, _id: str, done: Callable[[Any], None]) -> None:
        self.waiting.append(done)


@contextlib.contextmanager
def registry_of(pair: Pair, make: Callable[[Any], Any]) -> Iterator[Any]:
    """Another registry, which is asked and told of prompts though round robin makes no use of it."""
    gateway = pair.router.worker.gateway
    behind = gateway.registry
    stands = make(behind)

    def use(registry: Any, needed: bool) -> None:
        gateway.registry = registry
        gateway.needs_records = needed

    pair.router.call(lambda: use(stands, True))
    try:
        yield stands
    finally:
        pair.router.call(lambda: use(behind, False))


LONG = {"model": "m", "messages": [{"role": "user", "content": "word " * 500}]}
