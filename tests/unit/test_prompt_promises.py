"""Prompts that were promised are kept warm by their texts: what is kept of them, what is sent, and when it stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.promised_prompts import LONG, PromptWorld, marked
from tests.support.wire import Wire
from warmroute.caching.budget import PrefillBudget
from warmroute.caching.prefilled import Prefilled
from warmroute.caching.texts import Text, Texts
from warmroute.config.cached_contents import CachedContentsConfig
from warmroute.config.provider_caching import CachingConfig
from warmroute.core.types import Api, ReplicaId
from warmroute.service import keep_warm
from warmroute.service.keep_warm import KeepWarm
from warmroute.tasks import Tasks

HOUR = {"type": "ephemeral", "ttl": "1h"}


class Kept(PromptWorld):
    """The same, with the keeper."""

    def __init__(
        self, ratio: float = 0.2, share: float = 1.0, tenant_ratio: float = 1.0, **more: Any
    ) -> None:
        super().__init__(**more)
        self.tasks = Tasks()
        gateway = self.wire.gateway

        async def lead(for_s: float) -> bool:
            return True

        self.keeper = KeepWarm(
            [self.promises],
            lead=lead,
            share=lambda: share,
            fleet=gateway.fleet,
            registry=gateway.registry,
            sender=self.sender,
            budget=PrefillBudget(ratio, tenant_ratio),
            tasks=self.tasks,
            interval_s=0.5,
            uses_per_copy_per_s=2.0,
            clock=lambda: self.now_s,
        )

    async def round(self, passes_s: float = 0.0) -> list[ReplicaId | None]:
        """To which replicas one round sends something, so much later."""
        self.now_s += passes_s
        self.sender.sent.clear()
        await self.keeper.round()
        while len(self.tasks):
            await asyncio.sleep(0)
        return [on for on, _, _ in self.sender.sent]


def run(test: Callable[[Kept], Awaitable[None]], world: Kept | None = None) -> None:
    async def whole() -> None:
        started = world or Kept()
        await test(started)
        await started.tasks.stop()

    asyncio.run(whole())


def lose_all(world: Kept) -> None:
    for number in range(len(world.wire.replicas)):
        world.wire.restart(number)


def turns(count: int) -> dict[str, Any]:
    """A conversation that marks its last message, as agents do."""
    return {
        "system": LONG,
        "messages": [
            {"role": "assistant" if place % 2 else "user", "content": [{"type": "text", "text": f"turn {place}"}]}
            for place in range(2 * count - 1)
        ],
        "cache_control": {"type": "ephemeral"},
    }  # fmt: skip


def test_a_lost_prefix_is_computed_again_by_the_clients_own_api() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG))
        assert await world.round() == []
        lose_all(world)
        assert len(await world.round()) == 1
        _, api, body = world.sender.sent[0]
        sent = json.loads(body)
        assert api is Api.MESSAGES
        assert (sent["max_tokens"], sent["system"][0]["text"]) == (1, LONG)
        assert "stream" not in sent
        assert world.keeper.prefills == {"refresh": 0, "copy": 1}
        assert await world.round() == [], "it is warm"

    run(test)


def test_it_is_refreshed_while_it_lasts_and_never_after() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG))
        await world.round()
        assert len(await world.round(61.0)) == 1
        assert world.keeper.prefills["refresh"] == 1
        sent = 0
        while world.now_s < next(iter(world.caching.promises.live(0.0))).until_s - 10.0:
            sent += len(await world.round(10.0))
        assert sent >= 3
        lose_all(world)
        assert len(await world.round()) == 1
        lose_all(world)
        assert await world.round(10.1) == [], "it is over, and no refresh has renewed it"
        assert world.keeper.promises == len(world.texts) == world.texts.bytes == 0

    run(test)


def test_a_read_lets_it_last_longer() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG))
        world.now_s += 200.0
        world.ask(marked(LONG, "Again?"))
        world.now_s += 200.0
        lose_all(world)
        assert len(await world.round()) == 1

    run(test)


def test_of_a_conversation_only_the_longest_is_kept_as_text() -> None:
    world = Kept()
    for count in range(1, 9):
        world.ask(turns(count))
        assert len(world.texts) == 1
    assert len(world.caching.promises) == 8
    (key,) = world.texts
    text = world.texts.get(key)
    assert text is not None
    assert len(json.loads(text.body)["messages"]) == 15


def test_a_shorter_one_that_lasts_longer_has_a_text_of_its_own() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG, mark=HOUR) | {"cache_control": {"type": "ephemeral"}})
        assert len(world.texts) == 2
        whole, system = await world.promises.all(world.now_s)
        assert whole.tokens > system.tokens
        assert (whole.expires_s - world.now_s, system.expires_s - world.now_s) == (300.0, 3600.0)
        assert await world.round() == []
        lose_all(world)
        assert len(await world.round()) == 1, "the longest warms both"
        assert await world.round() == []
        lose_all(world)
        assert len(await world.round(301.0)) == 1
        assert json.loads(world.sender.sent[0][2])["messages"] == [{"role": "user", "content": "."}]

    run(test)


def test_what_the_budget_does_not_have_is_given_up_and_told_in_answers() -> None:
    async def test(world: Kept) -> None:
        assert b"x-warmroute-promise" not in world.ask(marked(LONG))
        lose_all(world)
        assert await world.round() == []
        assert world.keeper.given_up == {"budget": 1, "failed": 0}
        answer = world.ask(marked(LONG, "Where?"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"\r\nx-warmroute-promise: given-up\r\n" in head + b"\r\n"
        assert json.loads(body)["type"] == "message"
        await world.round()
        assert b"x-warmroute-promise" not in world.ask(marked(LONG, "And now?")), "that answer made it warm"
        assert world.keeper.given_up["budget"] == 1

    run(test, Kept(ratio=1e-9))


def test_one_that_is_over_or_that_a_longer_one_covers_is_not_given_up() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG))
        lose_all(world)
        await world.round()
        assert b"x-warmroute-promise: given-up" in world.ask(
            marked(LONG) | {"cache_control": {"type": "ephemeral"}}
        )
        assert len(world.texts) == 1, "the longer one has the text of both"
        assert b"x-warmroute-promise" not in world.ask(marked(LONG, "Where?"))
        lose_all(world)
        await world.round()
        world.now_s += 301.0
        await world.round()
        assert b"x-warmroute-promise" not in world.ask(marked(LONG))

    run(test, Kept(ratio=1e-9))


def test_what_no_replica_computes_is_given_up() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG))
        lose_all(world)
        world.sender.answer = Prefilled(400, "no")
        assert len(await world.round()) == 1
        world.keeper._watched[next(iter(world.keeper._watched))].next_s = 0.0
        assert len(await world.round()) == 1
        assert world.keeper.given_up == {"budget": 0, "failed": 1}

    run(test)


@pytest.mark.parametrize(("share", "tenants"), [(1.0, 12), (0.25, 12), (1.0, 1)])
def test_over_any_time_no_more_is_spent_than_the_budget(
    share: float, tenants: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is lost in every second of a minute; what is measured is what the engines computed."""

    async def test(world: Kept) -> None:
        monkeypatch.setattr(keep_warm, "monotonic", lambda: world.now_s)
        for number in range(12):
            world.ask(marked(f"{number} {LONG}", mark=HOUR), key=f"key {number % tenants}")
        began_s = world.now_s
        spent: list[tuple[float, float]] = []
        for _ in range(60):
            lose_all(world)
            await world.round(1.0)
            for on, _, body in world.sender.sent:
                assert on is not None
                replica = world.wire.worker.fleet.replicas[on]
                tokens = world.sender.shape(body, "", Api.MESSAGES).prompt_tokens
                spent.append((world.now_s, replica.prefill_s(tokens, 0)))
        ratio = 0.01 if tenants > 1 else 0.004
        rate = ratio * 3 * share
        at_s, total = began_s, 0.0
        for now_s, took_s in spent:
            total += took_s
            at_s = now_s
            assert total <= rate * (at_s - began_s + 60.0) + 1e-9
        assert total == pytest.approx(world.keeper.budget.spent_s)
        assert total >= 0.9 * rate * 60.0, "and what there is, is used"
        assert world.keeper.budget.refused > 300, "far more was wanted"

    run(test, Kept(ratio=0.01, share=share, tenant_ratio=0.004 if tenants == 1 else 1.0))


def test_a_refresh_waits_for_a_replica_at_rest_as_long_as_it_can() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG))
        await world.round()
        for replica in world.wire.replicas:
            replica.waiting = 1
        assert await world.round(61.0) == []
        assert world.keeper.put_off == 1
        for replica in world.wire.replicas:
            replica.waiting = 0
        assert len(await world.round()) == 1
        for replica in world.wire.replicas:
            replica.waiting = 1
        pace = next(iter(world.keeper._watched.values())).pace
        assert len(await world.round(pace.pause_s * 1.3)) == 1, "it cannot wait any longer"
        for replica in world.wire.replicas:
            replica.waiting = 0

    run(test)


def test_those_for_which_there_was_no_place_come_first_in_the_next_round() -> None:
    async def test(world: Kept) -> None:
        for number in range(6):
            world.ask(marked(f"{number} {LONG}"))
        seen: set[bytes] = set()
        world.sender.holds = asyncio.Event()
        for _ in range(3):
            world.now_s += 61.0
            world.sender.sent.clear()
            world.sender.holds.clear()
            await world.keeper.round()
            seen |= {body for _, _, body in world.sender.sent}
            assert len(world.sender.sent) <= keep_warm.MOST_AT_ONCE
            world.sender.holds.set()
            while len(world.tasks):
                await asyncio.sleep(0)
        assert len(seen) == 6

    run(test)


def test_tenants_have_promises_of_their_own_about_one_prefix() -> None:
    async def test(world: Kept) -> None:
        world.ask(marked(LONG), key="one")
        world.ask(marked(LONG), key="two")
        assert len({promise.tenant for promise in await world.promises.all(world.now_s)}) == 2
        lose_all(world)
        assert len(await world.round()) == 1, "one copy is there for both"
        assert await world.round() == []
        world.now_s += 200.0
        world.ask(marked(LONG), key="two")
        assert [p.until_s - world.now_s for p in world.caching.promises.live(0.0)] == [100.0, 300.0]

    run(test)


def test_where_texts_are_not_kept_promises_are_hashes_and_nothing_is_sent() -> None:
    wire = Wire(caching=CachingConfig(anthropic=True))
    assert wire.gateway.caching is not None
    assert wire.gateway.caching.texts is None
    assert wire.worker.warmth.keepers == []


def test_a_worker_with_both_kinds_gives_each_half_of_the_budget() -> None:
    world = Kept()
    assert len(world.wire.worker.warmth.keepers) == 1
    assert world.wire.worker.warmth.keepers[0]._share() == 1.0
    world.wire.worker.fleet.routers = 4
    assert world.wire.worker.warmth.keepers[0]._share() == 0.25
    both = Kept(cached_contents=CachedContentsConfig(enabled=True)).wire.worker.warmth
    assert [keeper._share() for keeper in both.keepers] == [0.5, 0.5]
    assert both.figures()["warmroute_keep_warm_prefills_total:copy"] == 0


# -- texts -----------------------------------------------------------------------------------------------------------


def test_texts_are_bounded_and_the_oldest_give_way() -> None:
    texts = Texts(10_000)
    for key in range(6):
        assert texts.put(key, Text(Api.CHAT, b"x" * 1_488))
        texts.renew(0)
    assert list(texts) == [2, 3, 4, 5, 0]
    assert (texts.bytes, texts.dropped) == (10_000, 1)
    assert not texts.renew(1)


def test_a_text_that_is_too_long_is_not_kept() -> None:
    texts = Texts(10_000)
    assert texts.put(1, Text(Api.CHAT, b"x"))
    assert not texts.put(1, Text(Api.CHAT, b"x" * 9_000))
    assert (len(texts), texts.bytes, texts.dropped) == (0, 0, 1)
