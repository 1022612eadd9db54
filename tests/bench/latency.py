"""Latency that the router adds: the same request to a replica directly and through the router, in turn.

    python -m tests.bench.latency [--seconds 30] [--rate 20] [--body-kb 2] [--registry memory]

One client, one connection each way, bodies that share three quarters. The replica answers at once, so what is left is
the router, two more hops over the loopback interface, and the machine's own noise (which the direct way has too). Not a
test: figures depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import time

from tests.bench import processes


def requests(size: int, count: int) -> list[bytes]:
    """Whole requests with chat bodies of about this many bytes."""
    rng = random.Random(size)
    shared = "".join(rng.choice("abcdefgh ") for _ in range(size * 3 // 4))
    made = []
    for number in range(count):
        own = f"{number} " + "".join(rng.choice("abcdefgh ") for _ in range(size // 4 - 150))
        messages = [{"role": "system", "content": shared}, {"role": "user", "content": own}]
        body = json.dumps({"model": "m", "messages": messages, "max_tokens": 16}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        made.append(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
    return made


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connect()

    def _connect(self) -> None:
        self._sock = socket.create_connection(("127.0.0.1", self._port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def time_s(self, request: bytes) -> float:
        """Seconds from the first byte sent to the last received."""
        started_s = time.perf_counter()
        self._sock.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._sock.recv(65536)
        return time.perf_counter() - started_s

    def close(self) -> None:
        self._sock.close()


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second each way")
    parser.add_argument("--body-kb", type=float, default=2.0)
    parser.add_argument("--registry", default="memory")
    arguments = parser.parse_args()
    count = int(arguments.seconds * arguments.rate)
    made = requests(int(arguments.body_kb * 1000), count)
    direct_s: list[float] = []
    through_s: list[float] = []
    with (
        processes.replicas(2) as ports,
        processes.router(ports, "--registry", arguments.registry) as (port, _),
    ):
        direct, through = Client(ports[0]), Client(port)
        for request in made[:50]:
            direct.time_s(request)
            through.time_s(request)
        next_s = time.perf_counter()
        for number, request in enumerate(made):
            next_s += 1 / arguments.rate
            time.sleep(max(0.0, next_s - time.perf_counter()))
            ways = [(direct, direct_s), (through, through_s)]
            for client, times in ways if number % 2 else reversed(ways):
                times.append(client.time_s(request))
        direct.close()
        through.close()
    added_s = [b - a for a, b in zip(direct_s, through_s, strict=True)]
    print(
        f"{count} requests each way, {arguments.rate:g}/s, {arguments.body_kb:g} KB, registry {arguments.registry}"
    )
    print("                 p50 ms   p90 ms   p99 ms")
    for name, values in (("direct", direct_s), ("through", through_s), ("added (pairs)", added_s)):
        print(f"{name:14}" + "".join(f"{percentile(values, share):9.3f}" for share in (0.5, 0.9, 0.99)))
    for share in (0.5, 0.99):
        added = percentile(through_s, share) - percentile(direct_s, share)
        print(f"p{share * 100:g} through minus p{share * 100:g} direct: {added:.3f} ms")


if __name__ == "__main__":
    main()
