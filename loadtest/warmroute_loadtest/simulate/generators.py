"""The generators make workloads that no public trace covers, each from stated distributions and one seed.

This module decides what is asked. The rates given are a starting point, since the grid sets its own. Lengths are
log-normal, given by mean and shape and cut at both ends; starts are Poisson.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from warmroute_loadtest.simulate.demo_traffic import demo
from warmroute_loadtest.simulate.drawing import Popularity, Text, asked_once, heads_of, lognormal, tokens_of
from warmroute_loadtest.simulate.fresh import (
    bursty_chat,
    completions,
    keystrokes,
    reasoning,
    subagents,
    tree_search,
)
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload, interleave


def shared_prompts(requests: int, seed: int = 1) -> Workload:
    """Single turns under shared system prompts: 150 groups of 6,000 tokens, question 1,200, answer 300.

    Source: inference-perf `shared_prefix`, llm-d's b2b-saas profile, with shorter answers.
    """
    rng = Random(seed)
    keys = KeyMaker()
    block = 128
    heads = [keys.fresh(6000 // block) for _ in range(150)]
    sessions: list[Session] = []
    now_s = 0.0
    for number in range(requests):
        now_s += rng.expovariate(10.0)
        head = rng.choice(heads)
        prompt = len(head) * block + tokens_of(rng, 1200, 0.3, 200, 4000)
        output = tokens_of(rng, 300, 0.5, 8, 1000)
        text = Text(head, block, keys)
        sessions.append(asked_once(now_s, f"s{number}", text, prompt, output, number))
    return Workload("shared-prompts", block, sessions, source=f"generated, seed {seed}")


def multi_turn(requests: int, seed: int = 2) -> Workload:
    """Conversations: 40 system prompts (mean 1,500 tokens, Zipf), opening message mean 6,000, then 1,500, answers 250.

    Six turns on average (geometric, at most 30), pauses log-normal with mean 10 s, at least 1 s.
    """
    rng = Random(seed)
    keys = KeyMaker()
    block = 64
    heads = heads_of(rng, keys, 40, 1500, block)
    popular = Popularity(len(heads), 0.9)
    sessions: list[Session] = []
    now_s = 0.0
    made = 0
    while made < requests:
        now_s += rng.expovariate(2.0)
        head = heads[popular.draw(rng)]
        text = Text(head, block, keys)
        context = len(head) * block
        turns: list[Turn] = []
        user_key = -len(sessions) - 1
        while not turns or (len(turns) < 30 and rng.uniform(0.0, 1.0) < 5 / 6):
            context += tokens_of(rng, 1500 if turns else 6000, 1.1, 20, 40_000)
            output = tokens_of(rng, 250, 0.7, 8, 1500)
            pause_s = lognormal(rng, 10.0, 1.0, 1.0, 300.0) if turns else 0.0
            chain = text.keys_for(context + output)
            turns.append(Turn(f"t{made}", context, output, chain, pause_s, user_key, session=len(sessions)))
            made += 1
            context += output
        sessions.append(Session(now_s, turns))
    return Workload("multi-turn", block, sessions, source=f"generated, seed {seed}")


def agent_loops(requests: int, seed: int = 3) -> Workload:
    """Coding agents: contexts from 50k to 150k tokens, tool results mean 2,500 tokens, answers 300, tool pauses.

    15,000 tokens of tools and system prompt come from one of 4 products; pauses are log-normal with mean 12 s, at
    least 0.5 s (published: median 10 s), and one in 20 is a person's (mean 90 s). About 20 turns, until the context
    is full. Source of the shape: 710 public Claude Code sessions (96 % reusable, mean prompt 122k, mean growth 2-3k
    a turn).
    """
    rng = Random(seed)
    keys = KeyMaker()
    block = 128
    heads = [keys.fresh(15_000 // block) for _ in range(4)]
    popular = Popularity(len(heads), 1.0)
    sessions: list[Session] = []
    now_s = 0.0
    made = 0
    while made < requests:
        now_s += rng.expovariate(0.15)
        text = Text(heads[popular.draw(rng)], block, keys)
        context = int(rng.uniform(50_000, 100_000))
        limit = int(rng.uniform(context + 5_000, 150_000))
        turns: list[Turn] = []
        user_key = -len(sessions) - 1
        while not turns or (context < limit and len(turns) < 60):
            if turns:
                context += tokens_of(rng, 2500, 1.0, 50, 20_000)
            output = tokens_of(rng, 300, 0.9, 16, 3000)
            person = rng.uniform(0.0, 1.0) < 0.05
            pause_s = lognormal(rng, 90.0 if person else 12.0, 1.0, 0.5, 600.0) if turns else 0.0
            chain = text.keys_for(context + output)
            turns.append(Turn(f"l{made}", context, output, chain, pause_s, user_key, session=len(sessions)))
            made += 1
            context += output
        sessions.append(Session(now_s, turns))
    return Workload("agent-loops", block, sessions, source=f"generated, seed {seed}")


def hot_keys(requests: int, seed: int = 4) -> Workload:
    """Bursts: 600 prompts of 4,000 tokens (Zipf), question 500, answer 200; half the time one of them is suddenly hot.

    A burst picks a prompt by lot, lasts for 400 requests and has 40 % of the traffic of its time.
    """
    rng = Random(seed)
    keys = KeyMaker()
    block = 64
    heads = heads_of(rng, keys, 600, 4000, block)
    popular = Popularity(len(heads), 0.8)
    sessions: list[Session] = []
    now_s = 0.0
    hot: int | None = None
    for number in range(requests):
        now_s += rng.expovariate(10.0)
        if number % 400 == 0:
            hot = rng.randrange(len(heads)) if (number // 400) % 2 else None
        chosen = hot if hot is not None and rng.uniform(0.0, 1.0) < 0.4 else popular.draw(rng)
        head = heads[chosen]
        prompt = len(head) * block + tokens_of(rng, 500, 0.8, 16, 4000)
        output = tokens_of(rng, 200, 0.6, 8, 1000)
        text = Text(head, block, keys)
        sessions.append(asked_once(now_s, f"h{number}", text, prompt, output, number))
    return Workload("hot-keys", block, sessions, source=f"generated, seed {seed}")


def batches(requests: int, seed: int = 8) -> Workload:
    """Batch jobs (evaluations, questions about one document): 200 prompts at one moment that share a beginning
    which nobody has seen, 8,000 tokens in the mean, question 300, answer 100. Five batches a minute."""
    rng = Random(seed)
    keys = KeyMaker()
    block = 64
    sessions: list[Session] = []
    now_s = 0.0
    head: tuple[int, ...] = ()
    for number in range(requests):
        if number % 200 == 0:
            now_s += rng.expovariate(1 / 12) if number else 0.0
            (head,) = heads_of(rng, keys, 1, 8000, block)
        prompt = len(head) * block + tokens_of(rng, 300, 0.8, 16, 4000)
        output = tokens_of(rng, 100, 0.6, 8, 1000)
        text = Text(head, block, keys)
        sessions.append(asked_once(now_s, f"b{number}", text, prompt, output, number))
    return Workload("batches", block, sessions, source=f"generated, seed {seed}")


def samples(requests: int, seed: int = 9) -> Workload:
    """Best of n: 4 to 16 requests for one prompt at one moment, 2,500 tokens in the mean behind 1,200 that all share,
    answers 500."""
    rng = Random(seed)
    keys = KeyMaker()
    block = 128
    sessions: list[Session] = []
    now_s = 0.0
    head = keys.fresh(1200 // block)
    while len(sessions) < requests:
        now_s += rng.expovariate(0.2)
        prompt = len(head) * block + tokens_of(rng, 2500, 0.9, 100, 20_000)
        shared = Text(head, block, keys).keys_for(prompt)
        for _ in range(rng.randint(4, 16)):
            output = tokens_of(rng, 500, 0.6, 50, 3000)
            text = Text(shared, block, keys)
            number = len(sessions)
            sessions.append(asked_once(now_s, f"o{number}", text, prompt, output, number))
    return Workload("samples", block, sessions, source=f"generated, seed {seed}")


def no_reuse(requests: int, seed: int = 5) -> Workload:
    """Single turns that share nothing: prompts mean 4,000 tokens with a long tail, answers 250."""
    rng = Random(seed)
    keys = KeyMaker()
    block = 128
    sessions: list[Session] = []
    now_s = 0.0
    for number in range(requests):
        now_s += rng.expovariate(8.0)
        prompt = tokens_of(rng, 4000, 1.0, 32, 60_000)
        output = tokens_of(rng, 250, 0.7, 8, 1500)
        text = Text((), block, keys)
        sessions.append(asked_once(now_s, f"n{number}", text, prompt, output, number))
    return Workload("no-reuse", block, sessions, source=f"generated, seed {seed}")


def mixed(requests: int, seed: int = 6) -> Workload:
    """A workload of which shared prompts, conversations, agents, hot keys and no reuse each make a fifth, over one
    span."""
    parts = [
        _regrain(make(requests // 5, seed + offset), 128)
        for offset, make in enumerate((shared_prompts, multi_turn, agent_loops, hot_keys, no_reuse))
    ]
    span_s = max(part.sessions[-1].start_s for part in parts)
    sessions: list[Session] = []
    for number, part in enumerate(parts):
        own_s = part.sessions[-1].start_s or 1.0
        for session in part.sessions:
            for turn in session.turns:
                turn.id = f"{number}{turn.id}"
                turn.keys = tuple(key * 8 + number for key in turn.keys)
            sessions.append(Session(session.start_s * span_s / own_s, session.turns))
    return Workload("mixed", 128, interleave(sessions), source=f"generated, seed {seed}")


def _regrain(workload: Workload, block_tokens: int) -> Workload:
    """Return the same prompts in larger blocks; each larger block has the key of the last block in it."""
    group = block_tokens // workload.block_tokens
    if group > 1:
        for session in workload.sessions:
            for turn in session.turns:
                turn.keys = turn.keys[group - 1 :: group]
        workload.block_tokens = block_tokens
    return workload


GENERATORS: dict[str, Callable[..., Workload]] = {
    "shared-prompts": shared_prompts,
    "multi-turn": multi_turn,
    "agent-loops": agent_loops,
    "hot-keys": hot_keys,
    "no-reuse": no_reuse,
    "batches": batches,
    "samples": samples,
    "mixed": mixed,
    "demo": demo,
    "completions": completions,
    "bursty-chat": bursty_chat,
    "reasoning": reasoning,
    "subagents": subagents,
    "tree-search": tree_search,
    "keystrokes": keystrokes,
}
_NUMBERS = {
    "agent-loops": 0,
    "hot-keys": 1,
    "mixed": 2,
    "multi-turn": 3,
    "no-reuse": 4,
    "shared-prompts": 5,
    "demo": 6,
    "batches": 7,
    "samples": 8,
    "completions": 9,
    "bursty-chat": 10,
    "reasoning": 11,
    "subagents": 12,
    "tree-search": 13,
    "keystrokes": 14,
}
"""Numbers that keep the draws of different generators apart; a new generator takes the next one."""


def generate(name: str, requests: int, variant: int = 0) -> Workload:
    """Make a workload by a generator of `GENERATORS`. Variant 0 has the generator's own seed; other variants draw anew
    from the same distributions."""
    make = GENERATORS[name]
    return make(requests, 1000 * variant + _NUMBERS[name]) if variant else make(requests)
