"""What it is worth to write prompts so that they are found cached: `python -m tests.bench.prompt_writing`.

Sends the same requests twice, as they are often written and as they should be, to a real router with two simulated
replicas in real time, one after the other, and prints for each the share of tokens found cached, prompt tokens that had
to be computed, and the mean time to the first token. Times are the simulator's (docs/simulator.md); shares are not.
"""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support.prompt_corpus import NAMES, Body, chat, tool, words
from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import SimProcess
from warmroute.config.schema import Address, Config, ReplicaConfig

PROMPTS = 16
SYSTEM_WORDS = 1200


class Habit(NamedTuple):
    """One way to write prompts, and a better one."""

    name: str
    usual: Callable[[random.Random], list[Body]]
    better: Callable[[random.Random], list[Body]]


def _time(minute: int) -> str:
    return f"It is 2026-11-29 10:{minute:02}."


def _in_front(form: Callable[[int], str]) -> Callable[[random.Random], list[Body]]:
    def make(rng: random.Random) -> list[Body]:
        system = words(rng, SYSTEM_WORDS)
        return [chat(f"{form(n)}\n{system}", words(rng, 30)) for n in range(PROMPTS)]

    return make


def _behind(form: Callable[[int], str]) -> Callable[[random.Random], list[Body]]:
    def make(rng: random.Random) -> list[Body]:
        system = words(rng, SYSTEM_WORDS)
        return [chat(system, f"{form(n)}\n{words(rng, 30)}") for n in range(PROMPTS)]

    return make


def _document(*, first: bool) -> Callable[[random.Random], list[Body]]:
    def make(rng: random.Random) -> list[Body]:
        document, bodies = words(rng, SYSTEM_WORDS), []
        for _ in range(PROMPTS):
            question = words(rng, 30)
            parts = (document, question) if first else (question, document)
            bodies.append(chat("Answer by the document.", "\n\n".join(parts)))
        return bodies

    return make


def _tools(*, shuffled: bool) -> Callable[[random.Random], list[Body]]:
    def make(rng: random.Random) -> list[Body]:
        tools, system, bodies = [tool(rng, n) for n in range(12)], words(rng, 150), []
        for _ in range(PROMPTS):
            if shuffled:
                rng.shuffle(tools)
            bodies.append(chat(system, words(rng, 30), tools=list(tools)))
        return bodies

    return make


def _passages(*, shuffled: bool) -> Callable[[random.Random], list[Body]]:
    def make(rng: random.Random) -> list[Body]:
        passages, system, bodies = [words(rng, 150) for _ in range(6)], words(rng, 150), []
        for _ in range(PROMPTS):
            if shuffled:
                rng.shuffle(passages)
            bodies.append(chat(system, "\n\n".join(passages) + "\n\n" + words(rng, 30)))
        return bodies

    return make


def _talk(*, window: int, step: int) -> Callable[[random.Random], list[Body]]:
    """A conversation of which the last messages are sent; the window moves by `step` turns at once."""

    def make(rng: random.Random) -> list[Body]:
        system, turns, bodies, start = words(rng, 100), [words(rng, 60) for _ in range(64)], [], 0
        for n in range(PROMPTS):
            end = 17 + 2 * n
            while end - start > window:
                start += 2 * step
            bodies.append(chat(system, *turns[start:end]))
        return bodies

    return make


HABITS = (
    Habit("the time at the front / in the last message", _in_front(_time), _behind(_time)),
    Habit(
        "the user's name in the system prompt / in the first message",
        _in_front(lambda n: f"You speak with {NAMES[n % len(NAMES)]} {n}."),
        _behind(lambda n: f"I am {NAMES[n % len(NAMES)]} {n}."),
    ),
    Habit("the question before / behind the document", _document(first=False), _document(first=True)),
    Habit("tools in any order / in one order", _tools(shuffled=True), _tools(shuffled=False)),
    Habit("passages in any order / in one order", _passages(shuffled=True), _passages(shuffled=False)),
    Habit(
        "a turn dropped each time / eight turns dropped now and then",
        _talk(window=17, step=1),
        _talk(window=32, step=8),
    ),
)


def ask(router: RouterThread, body: Body) -> tuple[int, int, float]:
    """Prompt and cached tokens, and the time to the first token."""
    data = json.dumps(
        {**body, "model": "sim", "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}
    ).encode()
    request = urllib.request.Request(
        router.url + "/v1/chat/completions", data, {"Content-Type": "application/json"}
    )
    begun_s = time.perf_counter()
    ttft_s = 0.0
    usage: dict[str, Any] = {}
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                ttft_s = ttft_s or time.perf_counter() - begun_s
                usage = json.loads(line[6:]).get("usage") or usage
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], ttft_s


def measured(router: RouterThread, bodies: list[Body]) -> tuple[float, float, float]:
    """Share cached, tokens computed a prompt, seconds to the first token."""
    told = [ask(router, body) for body in bodies]
    prompt, cached = sum(one[0] for one in told), sum(one[1] for one in told)
    return cached / prompt, (prompt - cached) / len(told), sum(one[2] for one in told) / len(told)


def main() -> None:
    """Print the table."""
    anywhere = Address("127.0.0.1:0")
    with SimProcess("--speed", "1", ports=2) as sims:
        replicas = tuple(
            ReplicaConfig(url=url, id=name) for url, name in zip(sims.urls, sims.ids, strict=True)
        )
        with running(Config(listen=anywhere, admin=anywhere, replicas=replicas), 2) as router:
            print(
                "| usual / better | found cached | computed, tokens a prompt | first token |\n|---|---|---|---|"
            )
            for habit in HABITS:
                usual = measured(router, habit.usual(random.Random(f"{habit.name} usual")))
                better = measured(router, habit.better(random.Random(f"{habit.name} better")))
                print(
                    f"| {habit.name} | {usual[0]:.0%} / {better[0]:.0%} | {usual[1]:,.0f} / {better[1]:,.0f}"
                    f" | {usual[2] * 1e3:.0f} / {better[2] * 1e3:.0f} ms |"
                )


if __name__ == "__main__":
    main()
