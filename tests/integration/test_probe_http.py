"""Probes against real sockets: what is asked how often, and how restarts, outages and odd servers are seen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from tests.support.fake_vllm import FakeVllm
from warmroute.adapters.engine import probe as module
from warmroute.adapters.engine.probe import HttpEngine, incarnation_of
from warmroute.core.health.health import FailureReason
from warmroute.core.types import ReplicaId
from warmroute.ports import Engine, ProbeResult, RankFigures

ID = ReplicaId("replica-1")
NO_START_TIME = b'vllm:num_requests_running{engine="0"} 0.0\n'


class World:
    """One fake replica, one engine adapter, and a clock that only tests move."""

    def __init__(self, replica: FakeVllm, engine: HttpEngine) -> None:
        self.replica = replica
        self.engine = engine
        self.now_s = 1_800_000_000.0

    async def probe(self) -> ProbeResult:
        return await self.engine.probe(ID, self.replica.url)


def play(
    scenario: Callable[[World], Awaitable[None]], *, timeout_s: float = 60.0, api_key: str | None = None
) -> None:
    async def run() -> None:
        async with FakeVllm() as replica:
            engine = HttpEngine(
                timeout_s=timeout_s, scrape_interval_s=10.0, clock=lambda: world.now_s, api_key=api_key
            )
            world = World(replica, engine)
            await engine.start()
            try:
                await scenario(world)
            finally:
                await engine.stop()

    asyncio.run(run())


def test_the_first_probe_learns_everything() -> None:
    async def scenario(world: World) -> None:
        engine: Engine = world.engine
        result = await engine.probe(ID, world.replica.url)
        assert result == ProbeResult(
            alive=True,
            incarnation=incarnation_of(ID, 1_700_000_000.25),
            process=incarnation_of(ID, 1_700_000_000.25),
            life_told=True,
            models={"m": {"id": "m"}, "lora": {"id": "lora"}},
            block_tokens=32,
            cache_tokens=8192,
            running=2,
            waiting=1,
            engines=(RankFigures(8192, 2, 1),),
        )

    play(scenario)


def test_a_well_replica_costs_one_small_request_a_probe() -> None:
    async def scenario(world: World) -> None:
        first = await world.probe()
        for _ in range(5):
            world.now_s += 1.9
            assert await world.probe() == first
        assert world.replica.requests == {"/health": 6, "/metrics": 1, "/v1/models": 1}
        world.now_s += 1.9
        await world.probe()
        assert world.replica.requests == {"/health": 7, "/metrics": 2, "/v1/models": 2}

    play(scenario)


def test_a_restart_between_two_probes_is_seen_by_the_second() -> None:
    async def scenario(world: World) -> None:
        before = await world.probe()
        await world.replica.restart()
        world.replica.models = b'{"data":[{"id":"other"}]}'
        world.now_s += 0.5
        after = await world.probe()
        assert after.alive
        assert after.incarnation != before.incarnation
        assert after.models == {"other": {"id": "other"}}

    play(scenario)


def test_a_server_that_closes_every_connection_is_read_each_time() -> None:
    async def scenario(world: World) -> None:
        world.replica.keep_alive = False
        before = await world.probe()
        world.replica.start_time_s += 1
        assert (await world.probe()).incarnation != before.incarnation

    play(scenario)


def test_an_outage_is_seen_and_ended_with_a_fresh_look() -> None:
    async def scenario(world: World) -> None:
        before = await world.probe()
        await world.replica.stop()
        down = await world.probe()
        assert (down.alive, down.failure, down.incarnation) == (False, FailureReason.REFUSED, None)
        assert down.detail == f"{world.replica.url}/health: connection refused"
        await world.replica.start()
        back = await world.probe()
        assert back == before, "the same process: only the network was away"

    play(scenario)


def test_an_engine_without_a_start_time_has_a_new_life_after_each_outage_only() -> None:
    async def scenario(world: World) -> None:
        world.replica.metrics = NO_START_TIME
        lives = [(await world.probe()).incarnation]
        world.now_s += 100
        assert (await world.probe()).incarnation == lives[0] == incarnation_of(ID, 0)
        for _ in range(3):
            await world.replica.stop()
            assert not (await world.probe()).alive
            await world.replica.start()
            lives.append((await world.probe()).incarnation)
            assert (await world.probe()).incarnation == lives[-1]
        assert None not in lives
        assert len(set(lives)) == 4

    play(scenario)


@pytest.mark.parametrize("status", [404, 405])
def test_an_engine_without_metrics_works(status: int) -> None:
    async def scenario(world: World) -> None:
        world.replica.metrics_status = status
        result = await world.probe()
        assert result.alive
        assert result.incarnation == incarnation_of(ID, 0)
        assert set(result.models or ()) == {"m", "lora"}
        assert (result.block_tokens, result.running) == (None, None)
        await world.probe()
        assert world.replica.requests["/metrics"] == 1, "asked again only when due"

    play(scenario)


def test_a_server_without_health_is_asked_for_its_models_instead() -> None:
    async def scenario(world: World) -> None:
        world.replica.health_status = 404
        assert (await world.probe()).alive
        world.replica.models_status = 503
        unwell = await world.probe()
        assert unwell.failure is FailureReason.STATUS
        assert unwell.detail == f"{world.replica.url}/v1/models answered 503"

    play(scenario)


@pytest.mark.parametrize("status", [503, 500, 302])
def test_an_engine_that_says_it_is_unwell_is_believed(status: int) -> None:
    async def scenario(world: World) -> None:
        world.replica.health_status = status
        assert await world.probe() == ProbeResult(
            alive=False,
            failure=FailureReason.STATUS,
            detail=f"{world.replica.url}/health answered {status}",
        )

    play(scenario)


def test_silence_is_a_timeout_and_few_of_them_are_no_outage() -> None:
    async def scenario(world: World) -> None:
        world.replica.metrics = NO_START_TIME
        before = (await world.probe()).incarnation
        for silent in (2, 3):
            world.replica.health_delay_s = 30.0
            for _ in range(silent):
                unwell = await world.probe()
                assert unwell.failure is FailureReason.TIMEOUT
                assert unwell.detail == f"{world.replica.url}/health: no answer within 1 s"
            world.replica.health_delay_s = 0.0
            after = (await world.probe()).incarnation
            assert (after == before) == (silent == 2)

    play(scenario, timeout_s=1.0)


def test_trouble_while_reading_keeps_what_is_known_and_reads_again() -> None:
    async def scenario(world: World) -> None:
        before = await world.probe()
        world.now_s += 11
        world.replica.metrics_status = 500
        assert await world.probe() == before
        world.replica.metrics_status = 200
        world.replica.start_time_s += 1
        assert (await world.probe()).incarnation != before.incarnation

    play(scenario)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"data":{}}', b'{"data":[1]}', b'{"data":null}', b"\xff\xfe", b"[" * 100_000]
)
def test_models_that_cannot_be_read_are_unknown(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.replica.models = body
        result = await world.probe()
        assert result.alive
        assert result.models is None
        assert result.incarnation is not None
        world.now_s += 11
        await world.probe()
        assert [record.message for record in caplog.records] == ["replica_models_unknown"], "said once"

    play(scenario)


def test_model_entries_without_a_usable_name_are_left_out() -> None:
    async def scenario(world: World) -> None:
        world.replica.models = (
            b'{"data":[{"id":5},{"id":""},{},{"id":"' + b"x" * 600 + b'"},{"id":"m"},{"id":"m","n":2}]}'
        )
        assert (await world.probe()).models == {"m": {"id": "m"}}

    play(scenario)


def test_answers_without_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_METRICS_BYTES", 10_000)

    async def scenario(world: World) -> None:
        world.replica.metrics = b"x" * 1_000_000
        result = await world.probe()
        assert result.alive
        assert result.incarnation == incarnation_of(ID, 0)

    play(scenario)


def test_the_api_key_goes_with_every_probe() -> None:
    async def scenario(world: World) -> None:
        await world.probe()
        assert world.replica.authorizations == {"Bearer key-1"}

    play(scenario, api_key="key-1")


def test_a_replica_that_wants_a_key_is_alive_with_unknown_models(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.replica.models_status = 401
        result = await world.probe()
        assert result.alive
        assert result.models is None
        assert "set health.api_key" in caplog.records[0].fields["hint"]  # type: ignore[attr-defined]

    play(scenario)


def test_servers_that_speak_no_http_and_names_that_do_not_resolve_are_failures() -> None:
    async def scenario(world: World) -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"220 mail.example ESMTP\r\n")
            await writer.drain()
            writer.close()

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        for handler, expected, said in (
            (babble, FailureReason.PROBE, "what came is no HTTP answer"),
            (hang_up, FailureReason.LOST, "the connection broke before the answer was complete"),
        ):
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            result = await world.engine.probe(ReplicaId("odd"), f"http://127.0.0.1:{port}")
            assert (result.alive, result.failure) == (False, expected)
            assert result.detail == f"http://127.0.0.1:{port}/health: {said}"
            tls = await world.engine.probe(ReplicaId("odd"), f"https://127.0.0.1:{port}")
            assert (tls.alive, tls.failure) == (False, FailureReason.CONNECT)
            assert tls.detail is not None
            assert tls.detail.startswith(f"https://127.0.0.1:{port}/health: ")
            server.close()
            await server.wait_closed()
        result = await world.engine.probe(ReplicaId("odd"), "http://name.invalid:1")
        assert (result.alive, result.failure) == (False, FailureReason.CONNECT)
        assert result.detail is not None
        assert result.detail.startswith(
            "http://name.invalid:1/health: the name name.invalid does not resolve: "
        )

    play(scenario)


def test_a_connection_that_is_not_answered_is_told_from_a_server_that_is_silent() -> None:
    async def scenario(world: World) -> None:
        # A listening socket whose queue is full: connections to it are neither made nor refused.
        with socket.socket() as full, socket.socket() as first:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            first.setblocking(False)
            first.connect_ex(("127.0.0.1", port))
            result = await world.engine.probe(ReplicaId("full"), f"http://127.0.0.1:{port}")
            assert result.failure is FailureReason.TIMEOUT
            assert result.detail == f"http://127.0.0.1:{port}/health: no connection within 0.3 s"

    play(scenario, timeout_s=0.3)


def test_a_forgotten_replica_is_learned_anew() -> None:
    async def scenario(world: World) -> None:
        await world.probe()
        world.engine.forget(ID)
        await world.probe()
        assert world.replica.requests["/metrics"] == 2

    play(scenario)


def test_many_replicas_are_probed_at_once_over_one_connection_each() -> None:
    async def run() -> None:
        engine = HttpEngine(timeout_s=60.0, scrape_interval_s=10.0, clock=lambda: 0.0)
        await engine.start()
        replicas = [FakeVllm() for _ in range(20)]
        for replica in replicas:
            await replica.start()
        for _ in range(3):
            probes = (engine.probe(ReplicaId(replica.url), replica.url) for replica in replicas)
            results = await asyncio.gather(*probes)
            assert all(result.alive for result in results)
        assert len({result.incarnation for result in results}) == 20
        assert all(replica.requests["/metrics"] == 1 for replica in replicas)
        await engine.stop()
        for replica in replicas:
            await replica.stop()

    asyncio.run(run())


def test_a_probe_that_is_cancelled_leaves_nothing_open() -> None:
    async def scenario(world: World) -> None:
        world.replica.health_delay_s = 30.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await world.probe()

    play(scenario)


def test_an_incarnation_is_48_bits_and_differs_between_replicas_and_lives() -> None:
    lives = {
        incarnation_of(ReplicaId(f"r{index}"), start) for index in range(50) for start in (0, 1.5, 1.501)
    }
    assert len(lives) == 150
    assert all(0 < life < 1 << 48 for life in lives)
