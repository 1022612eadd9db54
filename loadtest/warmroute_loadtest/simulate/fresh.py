"""The fresh workloads are traffic that no rule of the choice was tuned on, each a habit of clients seen in production.

This module decides what is asked, as `generators` does. Nothing of it may be used to choose a rule or a constant: what
was chosen on `axes.CHOSEN_ON` is shown on these (`--cells fresh`). A rule that loses here is mended by its cause, and
the mend is judged on the axes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

from warmroute_loadtest.simulate.drawing import Popularity, Text, heads_of, lognormal, tokens_of
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload, interleave

_BLOCK_TOKENS = 64


def completions(requests: int, seed: int = 10) -> Workload:
    """Completions in an editor: the file up to the cursor (6,000 tokens in the mean) and answers of 40 tokens.

    An editing session asks 8 times in the mean, with 3 s between. Each time the file has 30 tokens more; one time in
    8 the cursor has moved to a place further up, and what is behind it is left out.
    """
    rng = Random(seed)
    keys = KeyMaker()
    sessions: list[Session] = []
    now_s = 0.0
    made = 0
    while made < requests:
        now_s += rng.expovariate(0.5)
        number = len(sessions)
        chain = list(keys.fresh(1))
        context = tokens_of(rng, 6000, 0.7, 200, 32_000)
        turns: list[Turn] = []
        while not turns or (len(turns) < 200 and rng.uniform(0.0, 1.0) < 7 / 8):
            if turns and rng.uniform(0.0, 1.0) < 1 / 8:
                context = max(int(context * rng.uniform(0.3, 1.0)), 200)
                del chain[context // _BLOCK_TOKENS :]
            elif turns:
                context += tokens_of(rng, 30, 0.8, 1, 400)
            full = context // _BLOCK_TOKENS
            if full > len(chain):
                chain.extend(keys.fresh(full - len(chain)))
            pause_s = lognormal(rng, 3.0, 0.8, 0.3, 60.0) if turns else 0.0
            output = tokens_of(rng, 40, 0.6, 4, 200)
            turns.append(
                Turn(f"c{made}", context, output, tuple(chain), pause_s, -number - 1, session=number)
            )
            made += 1
        sessions.append(Session(now_s, turns))
    return Workload("completions", _BLOCK_TOKENS, sessions, source=f"generated, seed {seed}")


def keystrokes(requests: int, seed: int = 15) -> Workload:
    """Completions as editors ask for them while somebody types: six of ten are broken off by the next keystroke.

    Otherwise they are those of `completions`. A request is broken off after 0.4 s in the mean, answered or not, and the
    next one follows 0.05 s later.
    """
    rng = Random(seed)
    workload = completions(requests, seed)
    for session in workload.sessions:
        for turn, following in pairwise([*session.turns, None]):
            assert turn is not None
            if rng.uniform(0.0, 1.0) < 0.6:
                turn.patience_s = lognormal(rng, 0.4, 0.7, 0.02, 120.0)
                if following is not None:
                    following.pause_s = 0.05
    return replace(workload, name="keystrokes")


def bursty_chat(requests: int, seed: int = 11) -> Workload:
    """Short chats that come in bursts: 12 system prompts of 600 tokens (Zipf), messages of 700, answers of 200.

    Three turns in the mean, pauses of 15 s. Times between chats are gamma distributed with a coefficient of variation
    of 3, so that most of them come a dozen at a moment.
    """
    rng = Random(seed)
    keys = KeyMaker()
    heads = heads_of(rng, keys, 12, 600, _BLOCK_TOKENS)
    popular = Popularity(len(heads), 1.0)
    sessions: list[Session] = []
    now_s = 0.0
    made = 0
    while made < requests:
        now_s += rng.gammavariate(1 / 9, 9 * 0.1)
        number = len(sessions)
        head = heads[popular.draw(rng)]
        text = Text(head, _BLOCK_TOKENS, keys)
        context = len(head) * _BLOCK_TOKENS
        turns: list[Turn] = []
        while not turns or (len(turns) < 20 and rng.uniform(0.0, 1.0) < 2 / 3):
            context += tokens_of(rng, 700, 1.0, 10, 8000)
            output = tokens_of(rng, 200, 0.7, 8, 1500)
            pause_s = lognormal(rng, 15.0, 1.0, 1.0, 300.0) if turns else 0.0
            chain = text.keys_for(context + output)
            turns.append(Turn(f"u{made}", context, output, chain, pause_s, -number - 1, session=number))
            context += output
            made += 1
        sessions.append(Session(now_s, turns))
    return Workload("bursty-chat", _BLOCK_TOKENS, sessions, source=f"generated, seed {seed}")


def reasoning(requests: int, seed: int = 12) -> Workload:
    """Long answers to short questions: 500 tokens behind a system prompt of 800, answers of 4,000, of which 400 stay.

    The model's thinking is left out of the next turn's prompt, as chat templates do. Three turns in the mean, pauses of
    20 s.
    """
    rng = Random(seed)
    keys = KeyMaker()
    head = keys.fresh(800 // _BLOCK_TOKENS)
    sessions: list[Session] = []
    now_s = 0.0
    made = 0
    while made < requests:
        now_s += rng.expovariate(1.0)
        number = len(sessions)
        text = Text(head, _BLOCK_TOKENS, keys)
        context = len(head) * _BLOCK_TOKENS
        turns: list[Turn] = []
        while not turns or (len(turns) < 12 and rng.uniform(0.0, 1.0) < 2 / 3):
            context += tokens_of(rng, 500, 1.0, 20, 12_000)
            output = tokens_of(rng, 4000, 0.7, 200, 16_000)
            pause_s = lognormal(rng, 20.0, 1.0, 1.0, 300.0) if turns else 0.0
            turns.append(
                Turn(
                    f"q{made}", context, output, text.keys_for(context), pause_s, -number - 1, session=number
                )
            )
            context += min(output, tokens_of(rng, 400, 0.6, 20, 3000))
            made += 1
        sessions.append(Session(now_s, turns))
    return Workload("reasoning", _BLOCK_TOKENS, sessions, source=f"generated, seed {seed}")


def subagents(requests: int, seed: int = 13) -> Workload:
    """Agents that send subagents: a parent's loop, and now and then 2 to 6 children that begin at one moment.

    Parent and children have tools and instructions of 12,000 tokens in common, children also a task of 1,500 that
    they share with their siblings. A parent begins with 8,000 tokens of its own and a child with 500. Each step adds a
    tool's result of 1,500 tokens, after a pause of 6 s; answers have 250 tokens. A parent makes 16 steps in the mean, a
    child 8.
    """
    rng = Random(seed)
    keys = KeyMaker()
    heads = [keys.fresh(12_000 // _BLOCK_TOKENS) for _ in range(3)]
    sessions: list[Session] = []
    now_s = 0.0
    made = 0

    def loop(start_s: float, head: tuple[int, ...], begin: int, mean_steps: int, user: int) -> None:
        nonlocal made
        text = Text(head, _BLOCK_TOKENS, keys)
        context = len(head) * _BLOCK_TOKENS + tokens_of(rng, begin, 0.6, 50, 60_000)
        turns: list[Turn] = []
        while not turns or (len(turns) < 60 and rng.uniform(0.0, 1.0) < 1.0 - 1.0 / mean_steps):
            if turns:
                context += tokens_of(rng, 1500, 1.0, 30, 16_000)
            output = tokens_of(rng, 250, 0.8, 16, 2500)
            pause_s = lognormal(rng, 6.0, 1.0, 0.2, 120.0) if turns else 0.0
            chain = text.keys_for(context + output)
            turns.append(Turn(f"a{made}", context, output, chain, pause_s, user, session=len(sessions)))
            context += output
            made += 1
        sessions.append(Session(start_s, turns))

    while made < requests:
        now_s += rng.expovariate(0.1)
        head = rng.choice(heads)
        loop(now_s, head, 8000, 16, -len(sessions) - 1)
        for _ in range(rng.randint(0, 3)):
            at_s = now_s + rng.uniform(5.0, 150.0)
            task = head + keys.fresh(1500 // _BLOCK_TOKENS)
            user = -len(sessions) - 1
            for _ in range(rng.randint(2, 6)):
                loop(at_s, task, 500, 8, user)
    return Workload("subagents", _BLOCK_TOKENS, interleave(sessions), source=f"generated, seed {seed}")


def tree_search(requests: int, seed: int = 14) -> Workload:
    """Searches in a tree of thoughts: a question of 4,000 tokens, then 5 levels of 8 answers of 400 tokens each.

    Each answer of a level goes on from one of the 3 best of the level before. All 8 branches begin at one moment, and
    each goes on by itself as soon as it has its answer.
    """
    rng = Random(seed)
    keys = KeyMaker()
    sessions: list[Session] = []
    now_s = 0.0
    made = 0
    while made < requests:
        now_s += rng.expovariate(0.2)
        root = keys.fresh(tokens_of(rng, 4000, 0.6, 500, 24_000) // _BLOCK_TOKENS)
        user = -len(sessions) - 1
        branches: list[list[Turn]] = [[] for _ in range(8)]
        best = [root]
        for level in range(5):
            reached: list[tuple[int, ...]] = []
            for number, branch in enumerate(branches, len(sessions)):
                before = best[rng.randrange(len(best))]
                output = tokens_of(rng, 400, 0.5, 100, 1500)
                context = len(before) * _BLOCK_TOKENS + 40
                chain = Text(before, _BLOCK_TOKENS, keys).keys_for(context + output)
                pause_s = 0.1 if level else 0.0
                branch.append(Turn(f"f{made}", context, output, chain, pause_s, user, session=number))
                reached.append(chain)
                made += 1
            best = rng.sample(reached, 3)
        sessions += [Session(now_s, turns) for turns in branches]
    return Workload("tree-search", _BLOCK_TOKENS, sessions, source=f"generated, seed {seed}")
