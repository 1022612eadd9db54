"""What routing costs a Redis, by its own account: `python -m tests.bench.redis_traffic [--requests 2000]`.

Routers as processes before fixed replicas, conversations of eight turns whose every turn goes through any of the
routers, evenly spread in time. Prints JSON: commands and bytes a request by what they are for, the server's time for
each, and what the load reports took beside it. A rate above what the machine carries merges more into a command, never
less.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import threading
import time
from random import Random
from typing import Any

from tests.bench.processes import replicas
from tests.support.processes import RouterProcess
from tests.support.redis_server import RedisServer

TURNS = 8
SYSTEM_BYTES, TURN_BYTES = 4_000, 1_500
CLIENTS = 16


def bodies(requests: int) -> list[bytes]:
    """Turns of conversations in the order in which they are sent: all first turns, then all second ones."""
    rng = Random(5)

    def text(size: int) -> str:
        return " ".join(f"{rng.getrandbits(24):06x}" for _ in range(size // 7))

    systems = [text(SYSTEM_BYTES) for _ in range(16)]
    histories = [
        [{"role": "system", "content": systems[number % len(systems)]}]
        for number in range(max(1, requests // TURNS))
    ]
    made = []
    while len(made) < requests:
        for history in histories:
            history.append({"role": "user", "content": text(TURN_BYTES)})
            made.append(json.dumps({"model": "m", "max_tokens": 16, "messages": history}).encode())
            history.append({"role": "assistant", "content": text(TURN_BYTES // 4)})
    return made[:requests]


def send(ports: list[int], made: list[bytes], rate: float) -> None:
    """Every request when it is due, through any router."""
    started_s = time.monotonic()
    due = iter(enumerate(made))
    lock = threading.Lock()

    def work(seed: int) -> None:
        rng = Random(seed)
        connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for port in ports]
        while True:
            with lock:
                number, body = next(due, (-1, b""))
            if number < 0:
                break
            time.sleep(max(0.0, started_s + number / rate - time.monotonic()))
            connection = rng.choice(connections)
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        for connection in connections:
            connection.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def account(server: RedisServer) -> dict[str, Any]:
    """Calls, time and bytes so far."""
    spent = server.command("INFO", "commandstats")
    stats = server.command("INFO", "stats")
    return {
        "calls": {name.removeprefix("cmdstat_"): row["calls"] for name, row in spent.items()},
        "usec": {name.removeprefix("cmdstat_"): row["usec"] for name, row in spent.items()},
        "in": stats["total_net_input_bytes"],
        "out": stats["total_net_output_bytes"],
    }


def difference(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What was spent in between."""
    return {
        "calls": {name: n - before["calls"].get(name, 0) for name, n in after["calls"].items()},
        "usec": {name: n - before["usec"].get(name, 0) for name, n in after["usec"].items()},
        "in": after["in"] - before["in"],
        "out": after["out"] - before["out"],
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second, all routers together")
    parser.add_argument("--routers", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=4)
    given = parser.parse_args()
    made = bodies(given.requests)
    with RedisServer() as server, replicas(given.replicas) as ports, contextlib.ExitStack() as stack:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        routers = [
            stack.enter_context(RouterProcess(urls, "--registry", server.url)) for _ in range(given.routers)
        ]
        time.sleep(2.0)
        before = account(server)
        started_s = time.monotonic()
        send([router.port for router in routers], made, given.rate)
        seconds = time.monotonic() - started_s
        time.sleep(0.2)
        spent = difference(account(server), before)
        time.sleep(0.5)
        before = account(server)
        time.sleep(5.0)
        idle = difference(account(server), before)
    count = given.requests
    calls, usec = spent["calls"], spent["usec"]
    writes = calls.get("evalsha", 0)  # each reads its records with one MGET of its own
    figures = {
        **vars(given),
        "seconds": round(seconds, 1),
        "mean_prompt_bytes": round(sum(map(len, made)) / count),
        "lookups_a_request": round((calls.get("mget", 0) - writes) / count, 3),
        "writes_a_request": round(writes / count, 3),
        "records_written_a_request": round(calls.get("set", 0) / count, 1),
        "lookup_us": round(usec.get("mget", 0) / max(1, calls.get("mget", 0)), 1),
        "write_us": round(usec.get("evalsha", 0) / max(1, writes), 1),
        "lease_commands_a_second": round(
            sum(calls.get(name, 0) for name in ("xadd", "xread", "pexpire")) / seconds, 1
        ),
        "bytes_in_a_request": round((spent["in"] - idle["in"] * seconds / 5.0) / count),
        "bytes_out_a_request": round((spent["out"] - idle["out"] * seconds / 5.0) / count),
        "idle_bytes_in_a_second": round(idle["in"] / 5.0),
        "idle_bytes_out_a_second": round(idle["out"] / 5.0),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
