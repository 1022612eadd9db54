"""What clients see while replicas die, or say nothing.

    python -m tests.bench.faults kill [--failover] [--seconds 40] [--rate 40] [--replicas 4]
    python -m tests.bench.faults silent [--seconds 40] [--rate 40] [--replicas 10] [--how stop|hang]

`kill`: streams at a steady rate while the simulated replicas are killed (-9) and restarted in turn; counts those that
failed before their first byte, ended with an error event, or broke without one. `silent`: the same traffic twice,
first with all replicas well, then with one in ten that accepts and says nothing: stopped (`SIGSTOP`, its probes are
silent too), or hanging (its `/health` is fine); compares the times to the first token, as clients see them. Router and
replicas are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import signal
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass

import uvloop

from tests.support.sim_fleet import SimProcess
from tests.support.vllm_fleet import RouterProcess, call

TOKENS = 60
WORDS = 300
CONVERSATIONS = 64


@dataclass(slots=True)
class Seen:
    """One stream, as its client saw it."""

    outcome: str
    ttft_s: float | None = None
    error_after_s: float | None = None
    """From the last text to the error event."""


async def ask(port: int, number: int, tokens: int) -> Seen:
    """One stream on a connection of its own."""
    topic = number % CONVERSATIONS
    content = f"{topic} " + f"word{topic} " * WORDS + f"question {number}"
    body = json.dumps(
        {
            "model": "sim",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": tokens,
            "stream": True,
        }
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    began_s = time.monotonic()
    ttft_s = None
    last_s = began_s
    data = b""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head % len(body) + body)
        while piece := await asyncio.wait_for(reader.read(65536), 120.0):
            data += piece
            if ttft_s is None and b"data: {" in data and b" 200 " in data[:20]:
                ttft_s = time.monotonic() - began_s
            if b'"error"' not in piece:
                last_s = time.monotonic()
    except (OSError, TimeoutError) as error:
        return Seen(f"client {type(error).__name__}", ttft_s)
    finally:
        if writer is not None:
            writer.close()
    ended = data.endswith(b"0\r\n\r\n") and b"data: [DONE]" in data
    if ttft_s is None:
        return Seen(f"failed before the first byte: {data[9:12].decode()}")
    if b'"error"' in data:
        return Seen("error event", ttft_s, time.monotonic() - last_s)
    return Seen("whole" if ended and b'"finish_reason":"length"' in data else "cut silently", ttft_s)


async def traffic(port: int, rate: float, seconds: float, seed: int, tokens: int = TOKENS) -> list[Seen]:
    """Streams that come at random at this rate. In the order in which they began."""
    rng = random.Random(seed)
    until_s = time.monotonic() + seconds
    tasks: list[asyncio.Task[Seen]] = []
    while time.monotonic() < until_s:
        tasks.append(asyncio.create_task(ask(port, seed * 1_000_000 + len(tasks), tokens)))
        await asyncio.sleep(rng.expovariate(rate))
    return list(await asyncio.gather(*tasks))


async def kill_in_turn(sims: list[SimProcess], seconds: float, every_s: float, down_s: float) -> int:
    """Kill each for a while, one after the other. Returns how many kills there were."""
    until_s = time.monotonic() + seconds
    kills = 0
    while time.monotonic() < until_s:
        sim = sims[kills % len(sims)]
        await asyncio.to_thread(sim.kill)
        kills += 1
        await asyncio.sleep(down_s)
        await asyncio.to_thread(sim.start)
        await asyncio.sleep(max(0.0, every_s - down_s))
    return kills


def share(values: list[float], at: float) -> float:
    """A quantile, 0 to 1, in milliseconds."""
    ordered = sorted(values)
    return 1000.0 * ordered[min(len(ordered) - 1, int(at * len(ordered)))] if ordered else float("nan")


def report(name: str, seen: list[Seen]) -> None:
    """Print what came of it."""
    counts = Counter(one.outcome for one in seen)
    ttfts = [one.ttft_s for one in seen if one.ttft_s is not None]
    errors = [one.error_after_s for one in seen if one.error_after_s is not None]
    print(
        f"{name}: {len(seen)} streams: "
        + ", ".join(f"{count} {what}" for what, count in counts.most_common())
    )
    print(
        f"  time to first token: p50 {share(ttfts, 0.5):.0f} ms, p99 {share(ttfts, 0.99):.0f} ms,"
        f" most {share(ttfts, 1.0):.0f} ms"
    )
    if errors:
        print(f"  error events came at most {max(errors):.2f} s after the last text")


def counters(router: RouterProcess) -> None:
    """Print what the router counted."""
    text = call(router.admin_url, "/metrics").body.decode()
    wanted = (
        "warmroute_retries_total",
        "warmroute_second",
        "warmroute_failovers",
        "warmroute_retry_budget",
        "warmroute_errors",
    )
    for line in text.splitlines():
        if line.startswith(wanted) and not line.endswith(" 0.0") and "_created" not in line:
            print(f"  {line}")


def run_kill(arguments: argparse.Namespace) -> None:
    """The scenario `kill`."""
    sims = [SimProcess("--speed", str(arguments.speed)) for _ in range(arguments.replicas)]
    for sim in sims:
        sim.start()
    try:
        flags = ["--set", f"failover={str(arguments.failover).lower()}", *shlex.split(arguments.serve)]
        with RouterProcess([sim.urls[0] for sim in sims], *flags) as router:
            port = int(router.url.rpartition(":")[2])

            async def scenario() -> None:
                streams = asyncio.create_task(
                    traffic(port, arguments.rate, arguments.seconds, 1, arguments.tokens)
                )
                kills = await kill_in_turn(sims, arguments.seconds, arguments.every_s, arguments.down_s)
                report(f"{kills} kills, failover {'on' if arguments.failover else 'off'}", await streams)

            uvloop.run(scenario())
            counters(router)
    finally:
        for sim in sims:
            sim.kill()


def run_silent(arguments: argparse.Namespace) -> None:
    """The scenario `silent`."""
    sims = [SimProcess("--speed", str(arguments.speed)) for _ in range(arguments.replicas)]
    for sim in sims:
        sim.start()
    silent = sims[: max(1, arguments.replicas // 10)]
    try:
        with RouterProcess([sim.urls[0] for sim in sims], *shlex.split(arguments.serve)) as router:
            port = int(router.url.rpartition(":")[2])

            async def scenario() -> tuple[list[Seen], list[Seen]]:
                await traffic(port, arguments.rate, 5.0, 1, arguments.tokens)  # speeds are learned
                well = await traffic(port, arguments.rate, arguments.seconds, 2, arguments.tokens)
                for sim in silent:
                    if arguments.how == "stop":
                        sim.signal(signal.SIGSTOP)
                    else:
                        await asyncio.to_thread(arm, sim)
                return well, await traffic(port, arguments.rate, arguments.seconds, 3, arguments.tokens)

            well, struck = uvloop.run(scenario())
            report("all well", well)
            report(f"{len(silent)} of {len(sims)} silent ({arguments.how}, from the first second on)", struck)
            p99 = [
                share([one.ttft_s for one in run if one.ttft_s is not None], 0.99) for run in (well, struck)
            ]
            print(f"  p99 of the time to first token: {p99[1] / p99[0]:.2f} times that without")
            counters(router)
            for sim in silent:
                sim.signal(signal.SIGCONT)
    finally:
        for sim in sims:
            sim.kill()


def arm(sim: SimProcess) -> None:
    """Every request hangs from now on; `/health` does not."""
    data = json.dumps({"kind": "hang", "count": -1}).encode()
    request = urllib.request.Request(f"{sim.urls[0]}/sim/fault", data, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).close()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=("kill", "silent"))
    parser.add_argument("--failover", action="store_true")
    parser.add_argument("--how", choices=("stop", "hang"), default="stop")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rate", type=float, default=40.0, help="streams a second")
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--speed", type=float, default=1.0, help="of the simulated engines")
    parser.add_argument("--every-s", type=float, default=5.0, help="between two kills")
    parser.add_argument("--down-s", type=float, default=2.0, help="from a kill to the restart")
    parser.add_argument(
        "--serve", default="", metavar="FLAGS", help="more of `warmroute serve`, in one argument"
    )
    arguments = parser.parse_args()
    if arguments.replicas is None:
        arguments.replicas = 4 if arguments.scenario == "kill" else 10
    if arguments.scenario == "kill":
        run_kill(arguments)
    else:
        run_silent(arguments)


if __name__ == "__main__":
    main()
