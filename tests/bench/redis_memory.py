"""What a registry record costs a Redis: `python -m tests.bench.redis_memory [--records 10000000] [--holders 1]`.

Fills a fresh Redis with records as routers leave them (a rung's key, entries of 10 bytes, a lifetime), through a pipe,
and prints JSON: bytes a record by the server's own account and by the kernel's, and what a lookup of 24 rungs takes at
that size, by the server's account.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import time
from random import Random

from tests.bench.processes import rss_mb
from tests.support.redis_server import RedisServer
from warmroute.adapters.resp.commands import pack

AT_ONCE = 10_000
LIFETIME_MS = 1_800_000
RUNGS = 24
LOOKUPS = 20_000


def fill(port: int, records: int, holders: int) -> float:
    """Write the records; returns the seconds that it took."""
    rng = Random(7)
    value_bytes = 10 * holders
    between = b"\r\n$%d\r\n" % value_bytes
    tail = b"\r\n$2\r\nPX\r\n$7\r\n%d\r\n" % LIFETIME_MS
    head = b"*5\r\n$3\r\nSET\r\n$10\r\nw:"
    pair = struct.Struct(">Q")
    started_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for start in range(0, records, AT_ONCE):
            count = min(AT_ONCE, records - start)
            values = rng.randbytes(value_bytes * count)
            sock.sendall(
                b"".join(
                    head
                    + pair.pack((start + i) * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF)
                    + between
                    + values[value_bytes * i : value_bytes * (i + 1)]
                    + tail
                    for i in range(count)
                )
            )
            left = 5 * count  # of "+OK\r\n"
            while left:
                left -= len(sock.recv(min(left, 65_536)))
    return time.monotonic() - started_s


def look_up(port: int, records: int) -> None:
    """Read random records as lookups do."""
    rng = Random(8)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for _ in range(LOOKUPS):
            keys = [
                b"w:" + struct.pack(">Q", rng.randrange(records) * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF)
                for _ in range(RUNGS)
            ]
            sock.sendall(pack("MGET", *keys))
            while not sock.recv(65_536).endswith(b"\r\n"):
                pass


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--holders", type=int, default=1, help="entries a record")
    given = parser.parse_args()
    with RedisServer() as server:
        before = int(server.command("INFO", "memory")["used_memory"])
        seconds = fill(server.port, given.records, given.holders)
        kept = int(server.command("DBSIZE"))
        memory = server.command("INFO", "memory")
        server.command("CONFIG", "RESETSTAT")
        look_up(server.port, kept)
        spent = server.command("INFO", "commandstats")["cmdstat_mget"]
        pid = int(server.command("INFO", "server")["process_id"])
        print(
            json.dumps(
                {
                    **vars(given),
                    "records_kept": kept,
                    "gb": round(int(memory["used_memory"]) / 1e9, 3),
                    "bytes_a_record": round((int(memory["used_memory"]) - before) / kept, 1),
                    "rss_gb": round(rss_mb(pid) * 2**20 / 1e9, 3),
                    "fill_s": round(seconds, 1),
                    "lookup_us": spent["usec_per_call"],
                }
            )
        )


if __name__ == "__main__":
    main()
