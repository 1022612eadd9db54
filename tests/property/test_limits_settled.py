"""Whatever becomes of requests, what they take of limits is put right once: limits, accounts and the queue agree."""

from __future__ import annotations

import asyncio
import time
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tenants import HeldLimiter, KeyedFleet, bearer, tenant
from tests.support.wire import ClientWire
from tests.support.wire_fleet import OK, plain
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import PriceConfig, QueueConfig, UsageConfig
from warmroute.dataplane.exchange import Exchange
from warmroute.tenants.limits import COST_DAY, TOKENS_MINUTE, Grant, LocalLimits
from warmroute.tenants.usage import COUNTERS

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":" w"},"finish_reason":null}]}\n\n'
)
FINISH = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = (
    b'data: {"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":11,"total_tokens":14,'
    b'"completion_tokens":3}}\n\n'
)
DONE = b"data: [DONE]\n\n"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}]}
ASKED = (
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": "m", "prompt": "x", "stream": True}),
    ("/v1/messages", {**CHAT, "max_tokens": 5, "stream": True}),
    ("/v1/embeddings", {"model": "m", "input": "x"}),
)


class LateLimiter(HeldLimiter):
    """Decides by the rules of one process, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = LocalLimits()

    def decide(self, number: int) -> None:
        grant, done = self.asked.pop(number)
        self.limits.take(grant, time.time())
        done()

    def settle(self, grant: Grant, requests: int, tokens: int, cost_nano: int = 0) -> None:
        assert grant.granted
        assert not grant.settled, "once"
        self.limits.settle(grant, requests, tokens, time.time(), grant.at_s, cost_nano)


class Story:
    """Clients, replicas and the limiter, each of which does something now and then."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        prices = (PriceConfig(model="*", prompt=1.0, output=1.0),)
        self.fleet = KeyedFleet(
            tenant(
                tokens_per_minute=10**6, concurrent_requests=9, requests_per_minute=1000, cost_per_day=1000
            ),
            replicas=3,
            usage=UsageConfig(enabled=True, prices=prices),
            failover=dice.random() < 0.7,
            queue=QueueConfig(
                enabled=dice.random() < 0.6,
                max_under_way=dice.choice((1, 2, 256)),
                max_requests=dice.choice((1, 3, 100)),
            ),
            caching=CachingConfig(openai=True, anthropic=True) if dice.random() < 0.5 else CachingConfig(),
        )
        self.limiter = LateLimiter()
        self.fleet.admission.use_limiter(self.limiter)
        self.sent: list[tuple[ClientWire, Exchange]] = []
        self.streams: dict[int, Exchange] = {}

    def step(self) -> None:
        dice = self.dice
        while self.limiter.asked and dice.random() < 0.6:
            self.limiter.decide(dice.randrange(len(self.limiter.asked)))
        live = [(c, e) for c, e in self.sent if c.connection.exchange is e and not c.transport.closed]
        act = dice.random()
        if act < 0.35 or not live:
            path, body = dice.choice(ASKED)
            client, exchange = self.fleet.send(bearer("a"), body, path)
            if exchange is not None:
                self.sent.append((client, exchange))
            return
        client, exchange = dice.choice(live)
        if act < 0.47:
            client.lose()
        elif exchange.connection is not None:
            self.answer(exchange)
        if dice.random() < 0.1:
            for number in list(self.fleet.dead):
                self.fleet.revive(number)

    def answer(self, exchange: Exchange) -> None:
        dice, connection = self.dice, exchange.connection
        assert connection is not None
        kind = dice.random()
        if kind < 0.15:
            connection.data_received(
                plain(dice.choice((500, 503, 429, 400, 404)), b'{"error":{"message":"x"}}')
            )
        elif kind < 0.25:
            connection.connection_lost(ConnectionResetError("reset"))
        elif kind < 0.3:
            self.fleet.kill(self.fleet.replica_of(exchange))
        elif kind < 0.5 and self.streams.get(id(connection)) is not exchange:
            connection.data_received(plain(200, OK))
        else:
            if self.streams.get(id(connection)) is not exchange:
                self.streams[id(connection)] = exchange
                connection.data_received(STREAM)
            for event in dice.choice(((EVENT,), (EVENT * 3,), (FINISH, USAGE, DONE, b""), (FINISH,), (b"",))):
                if exchange.connection is connection:
                    connection.data_received(b"%x\r\n%b\r\n" % (len(event), event) if event else b"0\r\n\r\n")

    def end(self) -> None:
        if self.dice.random() < 0.5:
            while self.limiter.asked:
                self.limiter.decide(0)
        for client, _ in self.sent:
            if not client.transport.closed or client.connection.exchange is not None:
                client.lose()
        while self.limiter.asked:
            self.limiter.decide(0)  # for whoever has left
        if self.fleet.gateway.hold is not None:
            self.fleet.gateway.hold.stop()


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_limits_accounts_and_the_queue_agree_however_requests_end(seed: int) -> None:
    async def run() -> None:
        story = Story(Random(seed))
        for _ in range(60):
            story.step()
        story.end()
        fleet = story.fleet
        assert fleet.wire.at_rest()
        ledger, queueing = fleet.admission.ledger, fleet.gateway.queueing
        assert ledger is not None
        counted = dict.fromkeys(COUNTERS, 0)
        for key, counts in ledger.drain().items():
            if not key[4]:
                counted = {name: counted[name] + more for name, more in zip(COUNTERS, counts, strict=True)}
        assert counted["begun"] == counted["requests"]
        caller = next(exchange.caller for _, exchange in story.sent)
        assert caller is not None
        (scope,) = fleet.admission.standing(caller, "m").scopes
        sums = story.limiter.limits.sums(scope, time.time())
        assert sums.under_way == 0
        used = sums.used(time.time())
        assert used[TOKENS_MINUTE] == counted["prompt_tokens"] + counted["output_tokens"]
        assert used[COST_DAY] == counted["cost_nano"]
        assert all(min(window.parts()) >= 0 for window in sums.windows if window is not None)
        if queueing is not None:
            assert len(queueing.queue) == 0
            queueing.queue.line.validate()

    asyncio.run(run())
