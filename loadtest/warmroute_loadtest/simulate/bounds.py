"""The bounds are what no router can beat: cached tokens of one pooled cache, and of one that knows the future.

Both replay prompts in order of arrival without time, at the engine's own granularity: only full blocks count, and a
prompt's last token is never cached. The later turns of a session are put where they would come if no answer queued.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator

from warmroute_loadtest.simulate.workload import Turn, Workload

_ANSWER_S_PER_TOKEN = 0.02


def arrival_order(workload: Workload) -> list[Turn]:
    """Return the turns in the order in which they would come if answers took 20 ms a token."""
    timed: list[tuple[float, int, Turn]] = []
    for number, session in enumerate(workload.sessions):
        at_s = session.start_s
        for position, turn in enumerate(session.turns):
            at_s += turn.pause_s
            timed.append((at_s, number * 1000 + position, turn))
            at_s += turn.output_tokens * _ANSWER_S_PER_TOKEN
    timed.sort(key=lambda item: item[:2])
    return [turn for _, _, turn in timed]


def _reusable(turn: Turn, block_tokens: int) -> int:
    return min(len(turn.keys), (turn.prompt_tokens - 1) // block_tokens)


def pooled_lru_ratio(workload: Workload, cache_tokens: int, turns: list[Turn] | None = None) -> float:
    """Return the share of prompt tokens that one LRU cache of `cache_tokens` tokens would hold. `turns` are the
    workload's turns in order of arrival, where the caller has them."""
    block = workload.block_tokens
    capacity = max(cache_tokens // block, 1)
    cache: OrderedDict[int, None] = OrderedDict()
    hits = total = 0
    unique = -1
    for turn in arrival_order(workload) if turns is None else turns:
        total += turn.prompt_tokens
        for key in turn.keys[: _reusable(turn, block)]:
            if key not in cache:
                break
            hits += block
        # The deepest block is noted first, as an engine frees a sequence, so that a prefix outlives its continuations.
        unknown = -(-(turn.prompt_tokens + turn.output_tokens) // block) - len(turn.keys)
        for _ in range(max(unknown, 0)):
            cache[unique] = None
            unique -= 1
        for key in reversed(turn.keys):
            cache.pop(key, None)
            cache[key] = None
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits / total if total else 0.0


def infinite_ratio(workload: Workload, turns: list[Turn] | None = None) -> float:
    """Return the share of prompt tokens that a cache without evictions would hold: all the reuse that the workload
    has."""
    return pooled_lru_ratio(workload, 1 << 62, turns)


def chunks_ratio(workload: Workload, recompute_ratio: float, turns: list[Turn] | None = None) -> float:
    """Return the share of prompt tokens that engines without evictions would not compute if all were one: each prompt's
    longest known prefix, and known chunks behind it, less what is computed of these all the same."""
    block = workload.block_tokens
    prefixes: set[int] = set()
    chunks: set[Hashable] = set()
    reused = 0.0
    total = 0
    for turn in arrival_order(workload) if turns is None else turns:
        total += turn.prompt_tokens
        leading = 0
        for key in turn.keys[: _reusable(turn, block)]:
            if key not in prefixes:
                break
            leading += block
        reused += leading
        for chunk, start, end in turn.chunks:
            if chunk in chunks:
                reused += max(0, end - max(start, leading)) * (1.0 - recompute_ratio)
            chunks.add(chunk)
        prefixes.update(turn.keys)
    return reused / total if total else 0.0


def clairvoyant_ratio(workload: Workload, cache_tokens: int, turns: list[Turn] | None = None) -> float:
    """Return the share of prompt tokens that one cache would hold if it evicted what is needed again last (Belady), and
    kept nothing that is never needed again."""
    block = workload.block_tokens
    capacity = max(cache_tokens // block, 1)
    order = arrival_order(workload) if turns is None else turns
    upcoming: dict[int, list[int]] = {}
    for position, turn in enumerate(order):
        for key in turn.keys:
            upcoming.setdefault(key, []).append(position)
    iterators: dict[int, Iterator[int]] = {key: iter(positions) for key, positions in upcoming.items()}
    due: dict[int, int] = {}
    farthest: list[tuple[int, int]] = []
    hits = total = 0
    for position, turn in enumerate(order):
        total += turn.prompt_tokens
        for key in turn.keys[: _reusable(turn, block)]:
            if key not in due:
                break
            hits += block
        for key in turn.keys:
            following = next((p for p in iterators[key] if p > position), None)
            if following is None:
                due.pop(key, None)
                continue
            due[key] = following
            heapq.heappush(farthest, (-following, key))
        while len(due) > capacity:
            negative, key = heapq.heappop(farthest)
            if due.get(key) == -negative:
                del due[key]
    return hits / total if total else 0.0


def working_set_tokens(workload: Workload) -> int:
    """Return the number of distinct tokens in all prompts and answers."""
    block = workload.block_tokens
    known: set[int] = set()
    extra = 0
    for session in workload.sessions:
        for turn in session.turns:
            known.update(turn.keys)
            extra += max(turn.prompt_tokens + turn.output_tokens - len(turn.keys) * block, 0)
    return len(known) * block + extra
