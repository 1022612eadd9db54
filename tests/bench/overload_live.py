"""What the fleet's queue does where more is asked than there is, by real processes (`overload`: in virtual time).

    python -m tests.bench.overload_live [--seconds 60] [--speed 1] [--wait 1] [--queue-only]
        [overload | tenants | classes]

Router processes, compiled as they are installed, before 4 simulated replicas in another process, and a client in this
one that sends each request at its time whatever became of those before it, over connections that it keeps. Prompts of
500 to 3,500 tokens share no prefixes. All figures are the client's, so that they hold what the machine adds; the client
also tells how late it was itself. `overload`: multiples of the capacity, with the queue and without. `tenants`: one
tenant offers ten times its share, through 1 router and through 3 that share a Redis. `classes`: interactive requests
without and with batch that fills the fleet. Not a test: times depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import uvloop

from tests.bench.overload import OUTPUT_TOKENS, PROMPT_TOKENS, SLO_S, TIMEOUT_S, at
from tests.chaos.world import LEFT
from tests.support.processes import RouterProcess, SimProcess, cpu_s
from tests.support.redis_server import RedisServer
from tests.support.router_thread import wait_until

REPLICAS: Final = 4
TOKEN_BYTES: Final = 4
"""Of the simulator, and what routers expect before they have learned."""

LEFT_OUT: Final = 0.25
"""Of a run's beginning: rates are learned by then."""

KEYS: Final = {"one": "wr-bench-key-of-tenant-one", "two": "wr-bench-key-of-tenant-two"}

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d\d\d)")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass
class Story:
    """One request as its client saw it."""

    sent_s: float
    tenant: str
    priority: str
    prompt_tokens: int
    status: int = 0
    """0: no answer yet; -1: the connection was lost."""
    retry_after: bool = False
    head_s: float = -1.0
    first_s: float = -1.0
    end_s: float = -1.0

    @property
    def ttft_s(self) -> float:
        """Time to the first event."""
        return self.first_s - self.sent_s


@dataclass(frozen=True)
class Source:
    """Who sends, how often, with which class; to which routers."""

    rate: float
    tenant: str = ""
    priority: str = ""
    routers: tuple[int, ...] = ()
    """Empty: to all."""


class Connection(asyncio.Protocol):
    """One connection of the client's: one request after the other."""

    def __init__(self, idle: deque[Connection]) -> None:
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._story: Story | None = None
        self._request = b""
        self._data = b""

    def ask(self, story: Story, request: bytes) -> None:
        """Send it, once there is a connection."""
        self._story, self._request, self._data = story, request, b""
        if self._transport is not None:
            self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        story = self._story
        if story is None:
            return
        now_s = time.monotonic()
        seen = self._data = self._data + data if len(self._data) < 4096 else self._data[-64:] + data
        if story.head_s < 0:
            head, end, _ = seen.partition(b"\r\n\r\n")
            found = _STATUS.match(head)
            if not end or found is None:
                return
            story.head_s = now_s
            story.status = int(found[1])
            story.retry_after = b"\r\nretry-after: " in head.lower()
        if story.first_s < 0 and b"data: {" in seen:
            story.first_s = now_s
        if story.status == 200:
            done = seen.endswith(b"0\r\n\r\n")
        else:
            head, _, body = seen.partition(b"\r\n\r\n")
            length = _LENGTH.search(head + b"\r\n")
            done = length is not None and len(body) >= int(length[1])
        if done:
            story.end_s = now_s
            self._story = None
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._story is not None:
            self._story.status = -1
            self._story.end_s = time.monotonic()
            self._story = None
        with contextlib.suppress(ValueError):
            self._idle.remove(self)

    def close(self) -> None:
        """The client leaves."""
        self._story = None
        if self._transport is not None:
            self._transport.abort()


@dataclass
class Run:
    """What one run showed."""

    seconds: float
    begun_s: float = 0.0
    stories: list[Story] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    """How late the client sent each request."""
    rss_mb: float = 0.0
    """The most that any router had."""
    cpu_ratio: float = 0.0
    """Of one core, for all routers."""
    left: dict[str, float] = field(default_factory=dict)
    """Counters that were not zero afterwards."""

    def of(self, tenant: str = "", priority: str = "") -> list[Story]:
        """Those of a tenant or class, without the beginning of the run."""
        since_s = self.begun_s + LEFT_OUT * self.seconds
        return [
            s
            for s in self.stories
            if s.sent_s >= since_s and tenant in ("", s.tenant) and priority in ("", s.priority)
        ]

    def ttfts(self, tenant: str = "", priority: str = "") -> list[float]:
        """Of those that had a first token."""
        return [s.ttft_s for s in self.of(tenant, priority) if s.first_s >= 0]

    def tokens_per_s(self, tenant: str = "", priority: str = "") -> float:
        """Prompt tokens whose first token came while requests did, a second."""
        since_s, until_s = self.begun_s + LEFT_OUT * self.seconds, self.begun_s + self.seconds
        tokens = [
            s.prompt_tokens
            for s in self.stories
            if since_s <= s.first_s < until_s and tenant in ("", s.tenant) and priority in ("", s.priority)
        ]
        return sum(tokens) / (until_s - since_s)

    @property
    def good_per_s(self) -> float:
        """Requests a second whose first token came in time."""
        good = [ttft_s for ttft_s in self.ttfts() if ttft_s <= SLO_S]
        return len(good) / (self.seconds * (1 - LEFT_OUT))

    @property
    def refused(self) -> list[Story]:
        """Those with an answer of another status than 200."""
        return [s for s in self.of() if s.status >= 400]


class Bench:
    """The replicas, and what stays the same over all runs."""

    def __init__(self, seconds: float, speed: float, stack: contextlib.ExitStack) -> None:
        self.seconds = seconds
        self._sims = stack.enter_context(SimProcess(REPLICAS, "--speed", str(speed)))
        self._redis = stack.enter_context(RedisServer())
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._words = [f"word{number}" for number in range(997)]
        self._runs = 0
        self.slow = 1.0 / speed

    @contextlib.contextmanager
    def routers(
        self, count: int, queue: dict[str, Any] | None, *, keys: bool
    ) -> Iterator[list[RouterProcess]]:
        """So many, that share a Redis if they are several."""
        self._runs += 1
        settings: dict[str, Any] = {"queue": {"enabled": False} if queue is None else queue}
        if count > 1:
            settings["registry"] = {"url": self._redis.url, "namespace": f"b{self._runs}"}
        if keys:
            settings["keys"] = str(self._key_file())
            settings["tenants"] = [{"id": tenant} for tenant in KEYS]
        path = self._directory / f"router{self._runs}.yaml"
        path.write_text(json.dumps({**settings, "replicas": self._sims.urls}))
        with contextlib.ExitStack() as stack:
            starting = [RouterProcess(self._sims.urls, "--config", str(path)) for _ in range(count)]
            routers = [stack.enter_context(router) for router in starting]
            if count > 1:
                wait_until(lambda: all(r.metrics().get("warmroute_peers") == count - 1 for r in routers))
            yield routers

    def _key_file(self) -> Path:
        from warmroute.tenants.keys import digest_of

        path = self._directory / "keys"
        lines = [
            json.dumps({"id": f"bench{tenant}", "tenant": tenant, "sha256": digest_of(key.encode()).hex()})
            for tenant, key in KEYS.items()
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    def run(
        self,
        sources: Sequence[Source],
        *,
        routers: int = 1,
        queue: dict[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> Run:
        """Arrivals for so long, then until the last answer; without a queue clients leave then."""
        seconds = seconds or self.seconds
        keys = any(source.tenant for source in sources)
        with self.routers(routers, queue, keys=keys) as running:
            found = uvloop.run(self._load(running, sources, seconds, leave=queue is None))
            for router in running:
                pid = router.process.pid
                found.rss_mb = max(found.rss_mb, _peak_mb(pid))
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not any(_left(router) for router in running), 30.0)
            for router in running:
                found.left.update(_left(router))
            return found

    async def _load(
        self, routers: Sequence[RouterProcess], sources: Sequence[Source], seconds: float, *, leave: bool
    ) -> Run:
        loop = asyncio.get_running_loop()
        dice = Random(1)
        ports = [router.port for router in routers]
        idle: list[deque[Connection]] = [deque() for _ in routers]
        every: list[Connection] = []
        run = Run(seconds)
        arrivals: list[tuple[float, Source]] = []
        for source in sources:
            at_s = dice.expovariate(source.rate)
            while at_s < seconds:
                arrivals.append((at_s, source))
                at_s += dice.expovariate(source.rate)
        arrivals.sort(key=lambda arrival: arrival[0])
        before_s = sum(cpu_s(router.process.pid) for router in routers)
        run.begun_s = time.monotonic() + 0.2
        for number, (at_s, source) in enumerate(arrivals):
            due_s = run.begun_s + at_s
            prompt_tokens = dice.randint(*PROMPT_TOKENS)
            request = self._request(number, source, prompt_tokens, dice)
            which = dice.choice(source.routers or range(len(routers)))
            now_s = time.monotonic()
            if now_s < due_s:
                await asyncio.sleep(due_s - now_s)
                now_s = time.monotonic()
            run.lags_s.append(now_s - due_s)
            story = Story(now_s, source.tenant, source.priority, prompt_tokens)
            run.stories.append(story)
            if idle[which]:
                idle[which].popleft().ask(story, request)
                continue
            connection = Connection(idle[which])
            connection.ask(story, request)
            every.append(connection)
            making = loop.create_connection(lambda c=connection: c, "127.0.0.1", ports[which])  # type: ignore[misc]
            await making
        run.cpu_ratio = (sum(cpu_s(router.process.pid) for router in routers) - before_s) / seconds
        until_s = time.monotonic() + (0.0 if leave else 400.0)
        while any(story.end_s < 0 for story in run.stories) and time.monotonic() < until_s:
            await asyncio.sleep(0.05)
        for connection in every:
            connection.close()
        await asyncio.sleep(0.05)
        return run

    def _request(self, number: int, source: Source, prompt_tokens: int, dice: Random) -> bytes:
        room = prompt_tokens * TOKEN_BYTES
        start = dice.randrange(len(self._words))
        words = self._words[start:] + self._words[:start]
        text = f"{number} of {self._runs}: " + " ".join(words)
        text = (text * (room // len(text) + 1))[:room]
        body = json.dumps(
            {
                "model": "sim",
                "max_tokens": dice.randint(*OUTPUT_TOKENS),
                "stream": True,
                "messages": [{"role": "user", "content": text}],
            }
        ).encode()
        lines = f"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: {len(body)}\r\n"
        if source.tenant:
            lines += f"Authorization: Bearer {KEYS[source.tenant]}\r\n"
        if source.priority:
            lines += f"X-Warmroute-Priority: {source.priority}\r\n"
        return lines.encode() + b"\r\n" + body


def _peak_mb(pid: int) -> float:
    """The most resident memory that a process ever had, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _left(router: RouterProcess) -> dict[str, float]:
    """What counts requests and is not zero."""
    return {
        name: value
        for name, value in router.metrics().items()
        if value and name.partition("{")[0] in (*LEFT, "warmroute_replica_in_flight")
    }


def capacity(bench: Bench) -> float:
    """Requests a second that the fleet begins where always enough wait."""
    queue = {"enabled": True, "timeout_s": 30.0}
    run = bench.run([Source(6.0 * REPLICAS / bench.slow)], queue=queue, seconds=min(bench.seconds, 30.0))
    return run.tokens_per_s() / (sum(PROMPT_TOKENS) / 2)


def overload(bench: Bench, rate: float, wait_s: float, *, queue_only: bool) -> None:
    """Goodput at multiples of the capacity."""
    print(
        "| offered | queue | good, 1/s | TTFT p90, s | refused | refused after, p50, p99, ms | without Retry-After |"
        " lost | router MiB | router CPU | client late, p99, ms | not zero |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    timeout_s = wait_s * bench.slow
    for factor in (1, 2, 5, 10):
        for queued in (True, False):
            if not queued and (queue_only or factor > 2):
                continue  # of 2x nothing is left
            run = bench.run(
                [Source(rate * factor)], queue={"enabled": True, "timeout_s": timeout_s} if queued else None
            )
            refused = run.refused
            after_ms = [(s.head_s - s.sent_s) * 1000 for s in refused if s.status == 503]
            late = len([s for s in refused if s.status == 504])
            without = len([s for s in refused if not s.retry_after])
            lost = len([s for s in run.of() if s.status == -1])
            print(
                f"| {factor}x | {'yes' if queued else 'no'} | {run.good_per_s:.2f} | {at(run.ttfts(), 0.9):.2f} |"
                f" {len(refused) / max(1, len(run.of())):.2f} ({late} late) |"
                f" {at(after_ms, 0.5):.1f}, {at(after_ms, 0.99):.1f} | {without} | {lost} | {run.rss_mb:.0f} |"
                f" {run.cpu_ratio:.2f} | {at(run.lags_s, 0.99) * 1000:.1f} | {run.left or 'none'} |",
                flush=True,
            )


def tenants(bench: Bench, rate: float) -> None:
    """One tenant offers ten times its share, the other nine tenths of its own."""
    share = rate / 2
    queue = {"enabled": True, "timeout_s": TIMEOUT_S * bench.slow}
    print("| routers | quiet, tokens/s of its own | TTFT p90, s | times alone | router MiB | not zero |")
    print("|---|---|---|---|---|---|")
    for routers in (1, 3):
        own = Source(0.9 * share, "two", routers=(0,))
        calm = bench.run([own, Source(0.9 * share, "one")], routers=routers, queue=queue)
        noisy = bench.run([own, Source(10 * share, "one")], routers=routers, queue=queue)
        before, after = at(calm.ttfts("two"), 0.9), at(noisy.ttfts("two"), 0.9)
        print(
            f"| {routers} | {noisy.tokens_per_s('two') / calm.tokens_per_s('two'):.3f} | {after:.2f} |"
            f" {after / before:.2f} | {noisy.rss_mb:.0f} | {noisy.left or 'none'} |",
            flush=True,
        )


def classes(bench: Bench, rate: float) -> None:
    """Interactive requests at half the capacity, without and with batch that fills the rest."""
    own = Source(0.5 * rate, priority="interactive")
    queue = {"enabled": True, "timeout_s": TIMEOUT_S * bench.slow}
    alone = bench.run([own], queue=queue)
    print(
        "| queue | spare | interactive alone, TTFT p90, s | with batch, s | times | batch of what is left |"
    )
    print("|---|---|---|---|---|---|")
    for spare, queued in ((0.0, True), (0.25, True), (0.0, False)):
        filled = bench.run(
            [own, Source(0.6 * rate, priority="batch")],
            queue={**queue, "spare_ratio": spare} if queued else None,
        )
        before = at(alone.ttfts(priority="interactive"), 0.9)
        after = at(filled.ttfts(priority="interactive"), 0.9)
        left = rate * sum(PROMPT_TOKENS) / 2 - filled.tokens_per_s(priority="interactive")
        print(
            f"| {'yes' if queued else 'no'} | {spare:g} | {before:.2f} | {after:.2f} | {after / before:.2f} |"
            f" {filled.tokens_per_s(priority='batch') / left:.2f} |",
            flush=True,
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="overload, tenants, classes; all by default")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--speed", type=float, default=1.0, help="of the replicas; their capacity goes with it"
    )
    parser.add_argument(
        "--wait", type=float, default=TIMEOUT_S / 2, help="longest wait of overload, in seconds"
    )
    parser.add_argument(
        "--queue-only", action="store_true", help="leave out what a fleet without the queue does"
    )
    arguments = parser.parse_args()
    what = arguments.what or ["overload", "tenants", "classes"]
    with contextlib.ExitStack() as stack:
        bench = Bench(arguments.seconds, arguments.speed, stack)
        rate = capacity(bench)
        print(f"capacity: {rate:.1f} requests a second of {REPLICAS} replicas; SLO {SLO_S:g} s", flush=True)
        if "overload" in what:
            overload(bench, rate, arguments.wait, queue_only=arguments.queue_only)
        if "tenants" in what:
            tenants(bench, rate)
        if "classes" in what:
            classes(bench, rate)


if __name__ == "__main__":
    main()
