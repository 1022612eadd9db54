"""CPU time of the router's own code for one proxied request: everything but the kernel and the event loop.

    python -m tests.bench.request_path [--kb 1] [--seconds 2] [--profile | --instructions [--chunks]]
        [--policy prefix-cost] [--tenants] [--check | --record]

Drives a real client connection and real replica connections over transports that are plain objects: a request's bytes
go in, the replica's answer goes in, the answer to the client comes out. Not a test: timings depend on the machine;
compare two figures of one run. `--instructions` counts what valgrind's callgrind sees executed instead, which no other
work on the machine changes: the difference of two runs, so without the start; with `--chunks` of one chunk of a stream
instead of one request. Bodies are like those of the overhead
benchmark: three quarters of each are one of 16 shared system prompts. `--tenants`: with a key in each request, limits
and accounts of its tenant, which the router alone counts.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import dataclasses
import json
import os
import pstats
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from warmroute.app import Worker
from warmroute.config.load import load
from warmroute.config.schema import AllowanceConfig, KeysConfig, PriceConfig, TenantConfig, UsageConfig
from warmroute.core.fleet.fleet import ProbeSucceeded, ReplicaAdded
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.dataplane.downstream import ClientConnection
from warmroute.dataplane.upstream import ReplicaConnection
from warmroute.tenancy import tenants_of
from warmroute.tenants.keys import KeyRecord, digest_of

BASELINE = Path(__file__).with_name("instructions.json")
MOST_RATIO = 1.03
"""Of the baseline: what a change may add without saying so (`--record`)."""
PYTHON = ".".join(map(str, sys.version_info[:2]))

CACHE_TOKENS = 1_000_000
ANSWER_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello there, this is a fixed answer."},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":10,"completion_tokens":9,"total_tokens":19,"prompt_tokens_details":{"cached_tokens":8}}}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 19:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%b"
    % (len(ANSWER_BODY), ANSWER_BODY)
)

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"%b"},"logprobs":null,"finish_reason":null}]}\n\n'
)
WORDS = [b" the", b" a", b" router", b" that", b" holds", b" of", b" prefix", b" and"]


class NullTransport(asyncio.Transport):
    """Takes everything, keeps nothing."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 5)})
        self.written = 0

    def write(self, data: object) -> None:
        self.written += 1

    def writelines(self, pieces: object) -> None:
        self.written += 1

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        return

    def close(self) -> None:
        return


KEY = b"wr-benchbench-0123456789abcdefghijklmnopqrstuvwxyz01234567"


def requests(size: int, count: int, fields: bytes = b"") -> list[bytes]:
    """Whole requests with chat bodies of about `size` bytes."""
    rng = random.Random(size)
    words = [line for line in open("/usr/share/common-licenses/GPL-3").read().split() if line.isalpha()]

    def text(length: int) -> str:
        out = ""
        while len(out) < length:
            out += rng.choice(words) + " "
        return out[:length]

    shared = [text(size * 3 // 4) for _ in range(16)]
    made = []
    for _ in range(count):
        messages = [
            {"role": "system", "content": rng.choice(shared)},
            {"role": "user", "content": text(size // 4)},
        ]
        body = json.dumps({"model": "m", "messages": messages, "max_tokens": 16, "stream": False}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:30100\r\nContent-Type: application/json\r\n"
        made.append(b"%b%bContent-Length: %d\r\n\r\n%b" % (head, fields, len(body), body))
    return made


def instructions(kb: int, policy: str, *, chunks: bool, tenants: bool = False) -> int:
    """Instructions of one request, or of one chunk, by callgrind; of the package as it is installed."""
    path = f"{sysconfig.get_paths()['platlib']}{os.pathsep}{Path.cwd()}"
    few, many = 500, 2500
    counts = []
    for count in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out")
            command = [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={out}",
                sys.executable,
                "-P",
                "-m",
            ]
            command += ["tests.bench.request_path", f"--kb={kb}", f"--requests={count}", f"--policy={policy}"]
            if chunks:
                command.append("--chunks")
            if tenants:
                command.append("--tenants")
            # Hashes that differ from run to run would make both starts differ by some hundred instructions a request.
            environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment)
            found = re.search(r"^totals: (\d+)$", out.read_text(), re.MULTILINE)
            assert found is not None, "callgrind wrote no total"
            counts.append(int(found[1]))
    return round((counts[1] - counts[0]) / (many - few))


def compare(*, record: bool) -> bool:
    """Count what the committed baseline has; print both. False if more than `MOST_RATIO` of it is executed anywhere."""
    counted = {
        "request of 1 KB": instructions(1, "prefix-cost", chunks=False),
        "request of 32 KB": instructions(32, "prefix-cost", chunks=False),
        "chunk of a stream": instructions(1, "prefix-cost", chunks=True),
    }
    if record:
        BASELINE.write_text(json.dumps({"python": PYTHON, "instructions": counted}, indent=2) + "\n")
    baseline = json.loads(BASELINE.read_text())
    if baseline["python"] != PYTHON:
        print(
            f"the baseline is of Python {baseline['python']}, this is {PYTHON}: both may differ for that alone"
        )
    within = True
    for name, most in baseline["instructions"].items():
        ratio = counted[name] / most
        within = within and ratio <= MOST_RATIO
        print(
            f"{name:20} {most:9,} {counted[name]:9,}  {ratio:.3f}{'' if ratio <= MOST_RATIO else '  too many'}"
        )
    return within


async def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kb", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--policy", default="prefix-cost")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--instructions", action="store_true", help="count instructions (needs valgrind)")
    parser.add_argument("--requests", type=int, default=0, help="so many, instead of --seconds")
    parser.add_argument("--chunks", action="store_true", help="of a stream, instead of requests")
    parser.add_argument(
        "--check", action="store_true", help="fail if more is executed than the baseline allows"
    )
    parser.add_argument("--record", action="store_true", help="make what is executed now the baseline")
    parser.add_argument("--tenants", action="store_true", help="with keys, limits and accounts")
    arguments = parser.parse_args()
    if arguments.check or arguments.record:
        sys.exit(not compare(record=arguments.record))
    if arguments.instructions:
        executed = instructions(
            arguments.kb, arguments.policy, chunks=arguments.chunks, tenants=arguments.tenants
        )
        print(f"{arguments.kb} KB: {executed:,} instructions a {'chunk' if arguments.chunks else 'request'}")
        return
    urls = [f"http://127.0.0.1:{9101 + index}" for index in range(4)]
    environ = {"WARMROUTE_REPLICAS": ",".join(urls), "WARMROUTE_POLICY": arguments.policy}
    environ["WARMROUTE_UPSTREAM__KEEPALIVE_S"] = "3600"  # under valgrind seconds pass between two requests
    config = load([], environ=environ)
    if arguments.tenants:
        config = dataclasses.replace(
            config,
            keys=KeysConfig(url="/nowhere/keys"),
            usage=UsageConfig(
                enabled=True, prices=(PriceConfig(model="m", prompt=1.0, cached=0.1, output=3.0),)
            ),
            tenants=(
                TenantConfig(
                    id="a",
                    limits=AllowanceConfig(
                        requests_per_minute=10**9,
                        tokens_per_minute=10**9,
                        concurrent_requests=1000,
                        prompt_tokens=10**6,
                    ),
                ),
            ),
        )
    worker = Worker(config)
    if worker.tenancy.admission is not None:
        record = KeyRecord(id="bench", tenant="a", sha256=digest_of(KEY).hex())
        worker.tenancy.admission.keyring.use([record], tenants_of(config))
    gateway = worker.gateway
    for index, url in enumerate(urls):
        name = ReplicaId(url[7:])
        worker.fleet.apply(ReplicaAdded(name, url))
        worker.fleet.apply(
            ProbeSucceeded(name, Incarnation(index + 1), {"m": {}}, 16, CACHE_TOKENS, time.time())
        )
    for replica in worker.fleet.replicas.values():
        pool = gateway.pool(replica)
        connection = ReplicaConnection(pool)
        connection.connection_made(NullTransport())
        connection.idle_since_s = time.monotonic() + 1e6
        pool.release(connection)
    client = ClientConnection(gateway)
    client.connection_made(NullTransport())
    fields = b"Authorization: Bearer %b\r\n" % KEY if arguments.tenants else b""
    made = requests(arguments.kb * 1000, 200, fields)

    def once(data: bytes) -> None:
        client.data_received(data)
        exchange = client.exchange
        assert exchange is not None
        assert exchange.connection is not None
        exchange.connection.data_received(ANSWER)

    def many(seconds: float) -> int:
        count = 0
        until = time.process_time() + seconds
        while time.process_time() < until:
            for data in made:
                once(data)
            count += len(made)
        return count

    if arguments.chunks:
        client.data_received(made[0].replace(b'"stream": false', b'"stream": true '))
        assert client.exchange is not None
        engine = client.exchange.connection
        assert engine is not None
        engine.data_received(STREAM_HEAD)
        for index in range(arguments.requests):
            event = EVENT % WORDS[index % len(WORDS)]
            engine.data_received(b"%x\r\n%b\r\n" % (len(event), event))
        return
    if arguments.requests:
        for number in range(arguments.requests):
            once(made[number % len(made)])
        return
    many(0.5)
    profiler = cProfile.Profile()
    if arguments.profile:
        profiler.enable()
    started = time.process_time()
    count = many(arguments.seconds)
    spent = time.process_time() - started
    profiler.disable()
    print(f"{arguments.kb} KB: {spent / count * 1e6:.2f} us a request, {count} requests")
    if arguments.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    asyncio.run(main())
