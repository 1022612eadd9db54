"""A scenario generates talk number `n`, drawn from stated distributions, alone and in any order.

This module decides what is asked; when talks start is `arrivals`'. Every talk has dice of its own, seeded by
scenario, seed and number, so that workers make only what they play and all runs with one seed ask the same.

Lengths are log-normal (mean, shape, cut at both ends) and those of `warmroute simulate`'s generators where both have
a scenario of one name; `lengths` multiplies all of them, for models with short contexts.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from math import log
from random import Random

from warmroute_loadtest.locust.hostile import hostile_talk
from warmroute_loadtest.locust.talks import Api, Ask, Piece, Talk, hurried, planned

MAX_CONTEXT_TOKENS = 100_000
"""The most tokens that a context of agent loops has, before `lengths` is applied."""
SAMPLED_TALKS = 200
"""Number of talks from which the mean number of requests in a talk is estimated."""


class _Draw:
    """The random generator of one talk."""

    def __init__(self, name: str, seed: int, number: int, lengths: float) -> None:
        self.rng = Random(f"{name}/{seed}/{number}")
        self.id = f"{name}/{seed}/{number}"
        self.lengths = lengths

    def tokens(self, mean: float, shape: float, low: int, high: int) -> int:
        """Draw a length in tokens."""
        drawn = self.rng.lognormvariate(log(mean) - shape * shape / 2, shape)
        return max(1, int(min(max(drawn, low), high) * self.lengths))

    def fixed(self, tokens: int) -> int:
        """Return a length that is not drawn, in tokens."""
        return max(1, int(tokens * self.lengths))

    def pause_s(self, mean_s: float, low_s: float = 0.5, high_s: float = 600.0) -> float:
        """Draw a pause in seconds from a log-normal distribution of shape 1."""
        return min(max(self.rng.lognormvariate(log(mean_s) - 0.5, 1.0), low_s), high_s)


@lru_cache
def _sums(count: int, exponent: float) -> list[float]:
    return list(accumulate((rank + 1) ** -exponent for rank in range(count)))


def zipf(rng: Random, count: int, exponent: float) -> int:
    """Draw a rank from 0; rank 0 is the most frequent."""
    sums = _sums(count, exponent)
    return min(bisect(sums, rng.uniform(0.0, sums[-1])), count - 1)


def shared_prompts(draw: _Draw) -> Talk:
    """Single questions under 1 of 150 system prompts of 6,000 tokens: question 1,200, answer 300."""
    group = draw.rng.randrange(150)
    ask = Ask((Piece(draw.id, draw.tokens(1200, 0.3, 200, 4000)),), draw.tokens(300, 0.5, 8, 1000))
    return Talk("shared-prompts", (ask,), system=(Piece(f"shared/{group}", draw.fixed(6000)),))


def multi_turn(draw: _Draw) -> Talk:
    """Conversations: 1 of 40 system prompts (1,500 tokens, Zipf), opening message 6,000, then 1,500, answers
    250; 6 turns on average, pauses 10 s."""
    rank = zipf(draw.rng, 40, 0.9)
    asks: list[Ask] = []
    while not asks or (len(asks) < 30 and draw.rng.uniform(0.0, 1.0) < 5 / 6):
        text = Piece(f"{draw.id}/{len(asks)}", draw.tokens(1500 if asks else 6000, 1.1, 20, 40_000))
        pause_s = draw.pause_s(10.0, 1.0, 300.0) if asks else 0.0
        asks.append(Ask((text,), draw.tokens(250, 0.7, 8, 1500), pause_s))
    return Talk("multi-turn", planned(asks), system=(Piece(f"assistant/{rank}", draw.fixed(1500)),))


def rag(draw: _Draw) -> Talk:
    """Questions over retrieved passages: 1 of 3 system prompts (400 tokens), 5 of 500 passages (600 tokens
    each, Zipf, in the retriever's order), question 60, answer 200."""
    passages: list[int] = []
    while len(passages) < 5:
        passage = zipf(draw.rng, 500, 1.1)
        if passage not in passages:
            passages.append(passage)
    # A retriever ranks by relevance, and what is often relevant tends to come first.
    passages.sort(key=lambda passage: passage * draw.rng.uniform(0.7, 1.3))
    text = [Piece(f"passage/{passage}", draw.fixed(600)) for passage in passages]
    text.append(Piece(draw.id, draw.tokens(60, 0.6, 8, 400)))
    system = (Piece(f"rag/{draw.rng.randrange(3)}", draw.fixed(400)),)
    return Talk("rag", (Ask(tuple(text), draw.tokens(200, 0.5, 8, 800)),), system=system)


def agent_loops(draw: _Draw) -> Talk:
    """Coding agents: 15,000 tokens of tools and system prompt of 1 of 4 products, contexts that begin at 20,000
    to 50,000 tokens and grow by tool results (2,500) and answers (300) to at most 100,000; pauses 12 s, 1 in 20
    a person's 90 s."""
    head = draw.fixed(15_000)
    limit = draw.fixed(int(draw.rng.uniform(60_000, MAX_CONTEXT_TOKENS)))
    opening = draw.fixed(int(draw.rng.uniform(20_000, 50_000))) - head
    asks: list[Ask] = []
    context = head
    while len(asks) < 60:
        tokens = draw.tokens(2500, 1.0, 50, 20_000) if asks else opening
        answer = draw.tokens(300, 0.9, 16, 3000)
        if asks and context + tokens + answer > limit:
            break
        person = draw.rng.uniform(0.0, 1.0) < 0.05
        pause_s = draw.pause_s(90.0 if person else 12.0) if asks else 0.0
        asks.append(Ask((Piece(f"{draw.id}/{len(asks)}", tokens),), answer, pause_s))
        context += tokens + answer
    product = Piece(f"agent/{zipf(draw.rng, 4, 1.0)}", head)
    return Talk("agent-loops", planned(asks), system=(product,))


def no_reuse(draw: _Draw) -> Talk:
    """Single questions that share nothing: prompt 4,000 tokens with a long tail, answer 250."""
    ask = Ask((Piece(draw.id, draw.tokens(4000, 1.0, 32, 60_000)),), draw.tokens(250, 0.7, 8, 1500))
    return Talk("no-reuse", (ask,))


def embeddings(draw: _Draw) -> Talk:
    """Embeddings: 1 to 16 texts a request, 200 tokens each."""
    texts = [Piece(f"{draw.id}/{n}", draw.tokens(200, 0.6, 8, 2000)) for n in range(draw.rng.randint(1, 16))]
    return Talk("embeddings", (Ask(tuple(texts), 0),), api=Api.EMBEDDINGS, grows=False)


def hostile(draw: _Draw) -> Talk:
    """Half of the clients, by chance, mean ill or are broken: they leave, read slowly, or send what is no JSON, no HTTP
    or half a body. The other half are those of `shared-prompts`, and only these are measured."""
    talk = shared_prompts(draw)
    return talk if draw.rng.uniform(0.0, 1.0) < 0.5 else hostile_talk(talk, draw.rng)


def mixed(draw: _Draw) -> Talk:
    """Shared prompts, conversations, agent loops, RAG and no reuse each make a fifth of the talks."""
    make = draw.rng.choice((shared_prompts, multi_turn, agent_loops, rag, no_reuse))
    return make(draw)


SCENARIOS: dict[str, Callable[[_Draw], Talk]] = {
    "shared-prompts": shared_prompts,
    "multi-turn": multi_turn,
    "rag": rag,
    "agent-loops": agent_loops,
    "no-reuse": no_reuse,
    "embeddings": embeddings,
    "hostile": hostile,
    "mixed": mixed,
}


@dataclass(frozen=True, slots=True)
class Generated:
    """The talks of one scenario, which never end."""

    scenario: str
    seed: int = 1
    lengths: float = 1.0
    speed: float = 1.0
    """Pauses are divided by this."""
    api: str = "chat"
    """The name of an `Api`, or `both` for chat and messages by turns."""

    def talk(self, number: int) -> Talk:
        """Return talk `number`, counted from 0."""
        made = SCENARIOS[self.scenario](_Draw(self.scenario, self.seed, number, self.lengths))
        if made.api is Api.CHAT:
            made = replace(made, api=api_of(self.api, number))
        return hurried(made, self.speed)

    def mean_requests(self) -> float:
        """Return an estimate of the mean number of requests in a talk."""
        return sum(len(self.talk(number).asks) for number in range(SAMPLED_TALKS)) / SAMPLED_TALKS


def api_of(wished: str, number: int) -> Api:
    """Return the API of talk `number`."""
    if wished == "both":
        return Api.MESSAGES if number % 2 else Api.CHAT
    return Api(wished)
