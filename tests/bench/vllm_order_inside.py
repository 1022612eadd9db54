"""What the order inside the engine brings: a short warm turn's TTFT while real vLLM computes a long cold prompt.

Run as `python -m tests.bench.vllm_order_inside` (vLLM must be installed: `warmroute-replica vllm-install`). One vLLM
CPU replica with a tiny model after the other, each with other flags; no router. A conversation's next turn, all but 64
tokens of it cached, is sent alone, while one long prompt is computed, and while a second one waits behind that. Where
priorities count, the turn has 0 and the long ones have 1. Times are this machine's; how they compare is the engine's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from tests.support.vllm_fleet import call, server_load, wait_until
from warmroute_replica.vllm.launch import Fleet, Options

IDS = range(300, 8000)
"""Of the tiny model's 8,192 tokens, those that are text."""
CONVERSATION_TOKENS = 1024
NEW_TOKENS = 64

FLAGS: dict[str, Options] = {
    "as it comes": Options(),
    "threshold": Options(long_prefill_token_threshold=256),
    "threshold, adaptive": Options(
        long_prefill_token_threshold=256, long_prefill_token_threshold_adaptive=True
    ),
    "priority": Options(scheduling_policy="priority"),
    "priority, threshold": Options(long_prefill_token_threshold=256, scheduling_policy="priority"),
}


@dataclass(slots=True)
class Measured:
    """TTFT of the turn, and of the first long prompt, in one situation."""

    turn_s: float
    long_s: float | None = None


class Engine:
    """One replica, asked with token ids."""

    def __init__(self, url: str, model: str, dice: Random) -> None:
        self._url = url
        self._model = model
        self._dice = dice

    def prompt(self, tokens: int) -> list[int]:
        """That nobody has sent before."""
        return self._dice.choices(IDS, k=tokens)

    def ttft_s(self, prompt: Sequence[int], priority: int) -> float:
        """Of a stream of one token; an engine that does not schedule by priority is told the usual one."""
        body = {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": 1,
            "stream": True,
            "ignore_eos": True,
            "priority": priority,
        }
        started_s = time.monotonic()
        answer = call(self._url, "/v1/completions", body)
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {answer.body[:300]!r}")
        # The head comes before anything is computed, the first event with the first token.
        return answer.read_s[1] - started_s

    def turn_s(self, long: Sequence[int], *, by_priority: bool) -> Measured:
        """A warm turn behind long cold prompts of these sizes, the first of which is being computed."""
        conversation = self.prompt(CONVERSATION_TOKENS)
        self.ttft_s(conversation, 0)
        with ThreadPoolExecutor(len(long) or 1) as threads:
            behind: list[Future[float]] = []
            for tokens in long:
                behind.append(threads.submit(self.ttft_s, self.prompt(tokens), int(by_priority)))
                wait_until(
                    lambda: server_load(self._url) >= len(behind), "the long prompt is there", every_s=0.02
                )
                time.sleep(0.3)  # its first step is under way
            turn_s = self.ttft_s([*conversation, *self.prompt(NEW_TOKENS)], 0)
            long_s = [future.result() for future in behind]
        return Measured(turn_s, long_s[0] if long_s else None)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a row for each set of flags."""
    parser = argparse.ArgumentParser(prog="tests.bench.vllm_order_inside")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long-tokens", type=int, default=8192)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--flags", action="append", choices=list(FLAGS))
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--start-timeout-s", type=float, default=600.0)
    asked = parser.parse_args(argv)
    long = asked.long_tokens
    titles = ("alone", "behind one", "long then", "behind two", "long then")
    print(f"TTFT in s of a warm turn, and of a cold prompt of {long} tokens; medians of {asked.rounds}")
    print(f"{'flags':22s}" + "".join(f"{title:>12s}" for title in titles), flush=True)
    for name in asked.flags or FLAGS:
        options = FLAGS[name]
        with Fleet(
            1,
            lambda _line: None,
            preset=asked.preset,
            options=options,
            venv=asked.venv,
            start_timeout_s=asked.start_timeout_s,
        ) as fleet:
            engine = Engine(fleet.urls[0], fleet.model_name, Random(1))
            shown: list[float] = []
            for sizes in ([], [long], [long, long]):
                rounds = [
                    engine.turn_s(sizes, by_priority=options.scheduling_policy == "priority")
                    for _ in range(asked.rounds)
                ]
                shown.append(median(one.turn_s for one in rounds))
                if sizes:
                    shown.append(median(one.long_s for one in rounds if one.long_s is not None))
        print(f"{name:22s}" + "".join(f"{value:12.2f}" for value in shown), flush=True)


if __name__ == "__main__":
    main()
