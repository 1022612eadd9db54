"""Replicas are asked before a request is refused: how often, and what becomes of their answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.support.engines import WELL, ToldEngine
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.health.health import HealthParameters
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.ports import CallAnswer, CallError, ProbeResult
from warmroute.service import questions
from warmroute.service.questions import MOST_ASKED, Questions
from warmroute.tasks import Tasks

A, B = ReplicaId("a"), ReplicaId("b")


class FakeCalls:
    """Answers by URL and target."""

    def __init__(self) -> None:
        self.statuses: dict[str, int | None] = {}
        self.seen: list[tuple[str, str, Mapping[str, str]]] = []

    async def call(
        self, url: str, method: str, target: str, headers: Mapping[str, str], body: bytes, *, limit_bytes: int
    ) -> CallAnswer:
        self.seen.append((url, target, headers))
        await asyncio.sleep(0)
        status = self.statuses.get(url, 404)
        if status is None:
            raise CallError("refused")
        return CallAnswer(status, "", b"")


class Place:
    """Two well replicas, and who asks them."""

    def __init__(self, api_key: str | None = None) -> None:
        parameters = CostParameters()
        rng = random.Random(1)
        self.fleet = Fleet(POLICIES["round-robin"](parameters), rng, parameters, HealthParameters())
        for index, name in enumerate((A, B)):
            self.fleet.apply(ReplicaAdded(name, f"http://{name}"))
            self.fleet.apply(ProbeSucceeded(name, Incarnation(index + 1), {"m": {}}, None, None, 1.0))
        self.engine = ToldEngine(WELL, probed=(A, B))
        self.calls = FakeCalls()
        self.tasks = Tasks()
        latest = {
            name: ProbeResult(True, incarnation=Incarnation(index + 1)) for index, name in enumerate((A, B))
        }
        self.questions = Questions(
            self.fleet,
            self.engine,  # type: ignore[arg-type]
            self.calls,  # type: ignore[arg-type]
            self.tasks,
            latest=lambda: latest,
            clock=lambda: 2.0,
            api_key=lambda: api_key,
        )

    async def found(self, authorization: bytes = b"") -> ReplicaId | None:
        waiter: asyncio.Future[ReplicaId | None] = asyncio.get_running_loop().create_future()
        self.questions.find_response("/v1/responses/r", authorization, waiter.set_result)
        return await waiter

    async def allowed(self, authorization: bytes) -> bool:
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        known = self.questions.allowed(authorization, waiter.set_result)
        return await waiter if known is None else known


async def search(place: Place, count: int = 1) -> None:
    done = asyncio.Event()
    left = [count]

    def one() -> None:
        left[0] -= 1
        if not left[0]:
            done.set()

    for _ in range(count):
        place.questions.find_model(one)
    await done.wait()


def test_an_adapter_loaded_a_moment_ago_is_known_when_the_search_is_over() -> None:
    async def run() -> None:
        place = Place()
        place.engine.answers[B] = replace(WELL, models={"m": {}, "sql": {"parent": "m"}})
        await search(place)
        assert place.fleet.models() == {"m", "sql"}
        assert place.fleet.replicas[A].models == {"m"}
        assert place.fleet.model_cards()["sql"] == {"parent": "m"}

    asyncio.run(run())


def test_a_replica_that_does_not_tell_keeps_what_it_told() -> None:
    async def run() -> None:
        place = Place()
        place.engine.answers[A] = replace(WELL, models=None)
        await search(place)
        assert place.fleet.replicas[A].models == {"m"}

    asyncio.run(run())


def test_many_unknown_names_cost_one_search_and_the_next_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        moments = [100.0]
        delays: list[float] = []

        async def sleep(seconds: float) -> None:
            delays.append(seconds)
            moments[0] += seconds

        monkeypatch.setattr(questions, "monotonic", lambda: moments[0])
        place = Place()
        await search(place, 100)
        assert place.engine.models_asked == 2
        monkeypatch.setattr(questions.asyncio, "sleep", sleep)
        place.questions.find_model(lambda: None)
        while place.engine.models_asked < 4:
            await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, lambda: None), 10)
        assert delays[0] == questions.SPACING_S

    asyncio.run(run())


def test_a_kept_response_is_found_and_a_missing_one_is_not() -> None:
    async def run() -> None:
        place = Place()
        place.calls.statuses = {"http://a": None, "http://b": 200}
        assert await place.found(b"Bearer k") == B
        assert {call[2].get("Authorization") for call in place.calls.seen} == {"Bearer k"}
        place.calls.statuses = {}
        assert await place.found() is None
        await place.tasks.stop()

    asyncio.run(run())


def test_without_a_key_of_its_own_anyone_may_know() -> None:
    async def run() -> None:
        place = Place()
        assert await place.allowed(b"")
        assert await place.allowed(b"Bearer whatever")
        assert place.calls.seen == []

    asyncio.run(run())


def test_with_one_only_keys_that_a_replica_takes_and_each_is_asked_for_once() -> None:
    async def run() -> None:
        place = Place("s3cret")
        place.calls.statuses = {"http://a": 401, "http://b": 401}
        assert await place.allowed(b"Bearer s3cret")
        assert not await place.allowed(b"")
        assert place.calls.seen == []
        for _ in range(3):
            assert not await place.allowed(b"Bearer nope")
        assert len(place.calls.seen) == 1
        place.calls.statuses = {"http://a": None, "http://b": 200}
        for _ in range(3):
            assert await place.allowed(b"Bearer other")
        assert [call[0] for call in place.calls.seen[1:]] == ["http://a", "http://b"]

    asyncio.run(run())


def test_nobody_is_let_in_while_no_replica_can_tell() -> None:
    async def run() -> None:
        place = Place("s3cret")
        place.calls.statuses = {"http://a": None, "http://b": 503}
        assert not await place.allowed(b"Bearer other")
        place.calls.statuses = {"http://a": 200}
        assert await place.allowed(b"Bearer other"), "what was no answer is not remembered"

    asyncio.run(run())


def test_many_keys_are_not_remembered_without_end() -> None:
    async def run() -> None:
        place = Place("s3cret")
        place.calls.statuses = {"http://a": 401}
        for number in range(questions.MOST_VERDICTS + 10):
            await place.allowed(b"Bearer %d" % number)
        assert len(place.questions._verdicts) <= questions.MOST_VERDICTS

    asyncio.run(run())


def test_however_many_ask_for_what_nobody_has_replicas_are_asked_about_some_at_a_time() -> None:
    async def run() -> None:
        place = Place(api_key="own")
        under_way = most = 0
        call = place.calls.call

        async def counted(*arguments: Any, **named: Any) -> CallAnswer:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                await asyncio.sleep(0)
                return await call(*arguments, **named)
            finally:
                under_way -= 1

        place.calls.call = counted  # type: ignore[method-assign]
        found = await asyncio.gather(*[place.found() for _ in range(100)])
        assert set(found) == {None}
        assert len(place.calls.seen) == 200
        assert most <= 2 * MOST_ASKED
        place.calls.seen.clear()
        place.calls.statuses = {f"http://{A}": 200, f"http://{B}": 200}
        assert set(await asyncio.gather(*[place.allowed(b"Bearer %d" % (n // 50)) for n in range(100)])) == {
            True
        }
        assert most <= 2 * MOST_ASKED
        assert len(place.calls.seen) <= 2 * MOST_ASKED, "who waited heard what the first of its key was told"

    asyncio.run(run())
