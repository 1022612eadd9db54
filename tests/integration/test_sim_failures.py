"""The simulated replica over HTTP: errors, disconnects, and failures on demand."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.support.sim_client import SLOW, SYSTEM, Client, against, chat, config, events, raw_exchange
from warmroute_replica.sim.server import ReplicaServer


@pytest.mark.parametrize(
    ("path", "body", "status", "type_"),
    [
        ("/v1/chat/completions", chat(("user", "x"), model="nope"), 404, "NotFoundError"),
        ("/v1/chat/completions", b'{"model": ', 400, "Bad Request"),
        ("/v1/chat/completions", b'{"model": "\xff"}', 400, "Bad Request"),
        ("/v1/chat/completions", b"[]", 400, "Bad Request"),
        ("/v1/chat/completions", {"model": "sim"}, 400, "BadRequestError"),
        ("/v1/chat/completions", chat(("user", "x" * 40_000)), 400, "BadRequestError"),
        ("/v1/chat/completions", chat(("user", "x"), max_tokens=0), 400, "BadRequestError"),
        ("/v1/completions", {"prompt": []}, 400, "BadRequestError"),
        ("/v1/completions", {"prompt": ""}, 400, "BadRequestError"),
        ("/v1/completions", {"prompt": [-1]}, 400, "BadRequestError"),
        ("/v1/completions", {"prompt": "x", "n": 100_000}, 400, "BadRequestError"),
        ("/v1/responses", {"input": 7}, 400, "BadRequestError"),
        ("/v1/embeddings", {"input": {}}, 400, "BadRequestError"),
    ],
)
def test_errors_have_vllm_s_shape(path, body, status, type_):
    async def scenario(client: Client) -> None:
        got, answer = await client.post(path, body)
        assert got == status
        assert answer["error"]["type"] == type_
        assert answer["error"]["code"] == status
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert (await client.stats())["in_flight"] == 0

    against(scenario, config(max_model_len=8192))


def test_messages_errors_have_anthropic_s_shape_and_unknown_paths_fastapi_s():
    async def scenario(client: Client) -> None:
        status, answer = await client.post("/v1/messages", {"model": "nope", "max_tokens": 1, "messages": []})
        assert status == 404
        assert answer == {
            "type": "error",
            "error": {"type": "NotFoundError", "message": "The model `nope` does not exist."},
        }
        assert await client.post("/v1/nothing", {}) == (404, {"detail": "Not Found"})

    against(scenario)


def test_a_full_queue_is_vllm_s_503():
    async def scenario(client: Client) -> None:
        body = chat(("user", "Hello"), max_tokens=5000)
        waiting = [asyncio.ensure_future(client.post("/v1/chat/completions", body))]
        await client.until(lambda stats: stats["running"] == 1)
        waiting += [asyncio.ensure_future(client.post("/v1/chat/completions", body)) for _ in range(2)]
        await client.until(lambda stats: stats["waiting"] == 2)
        for stream in (False, True):
            status, answer = await client.post("/v1/chat/completions", {**body, "stream": stream})
            assert status == 503
            assert answer["error"]["message"].startswith("The engine is currently busy")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        stats = await client.until(lambda stats: not stats["in_flight"])
        assert (stats["running"], stats["waiting"], stats["aborted"]) == (0, 0, 3)

    against(scenario, config(SLOW, max_num_seqs=1, max_waiting=2))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["short", "long " * 20_000])
def test_a_client_that_goes_away_frees_its_seat_at_once(stream, prompt):
    async def scenario(client: Client) -> None:
        body = chat(("user", prompt), max_tokens=2000, stream=stream)
        response = asyncio.ensure_future(client.text("/v1/chat/completions", body))
        await client.until(lambda stats: stats["running"] == 1)
        response.cancel()
        await asyncio.gather(response, return_exceptions=True)
        stats = await client.until(lambda stats: not stats["in_flight"])
        assert (stats["running"], stats["waiting"], stats["aborted"]) == (0, 0, 1)
        assert 'sim:aborted_total{engine="0",model_name="sim"} 1.0' in await client.text("/metrics")

    against(scenario, config(SLOW))


def test_errors_on_demand_strike_as_often_as_asked_and_spare_health():
    async def scenario(client: Client) -> None:
        body = chat(("user", "Hello"), max_tokens=3)
        for kind, status, words in (
            ("500", 500, "EngineCore"),
            ("503", 503, "busy"),
            ("draining", 500, "cannot schedule new futures after shutdown"),
        ):
            await client.fault(kind, count=2)
            for _ in range(2):
                got, answer = await client.post("/v1/chat/completions", body)
                assert got == status
                assert words in answer["error"]["message"]
                assert await client.text("/health") == ""
            await client.ok("/v1/chat/completions", body)
        await client.fault("503", count=-1)
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", body))[0] == 503
        async with client.session.delete(client.url + "/sim/fault") as response:
            assert response.status == 200
        await client.ok("/v1/chat/completions", body)
        assert (await client.post("/sim/fault", {"kind": "nope"}))[0] == 400
        assert (await client.post("/sim/fault", {"kind": "500", "typo": 1}))[0] == 400
        await client.fault("500", path="/health")
        async with client.session.get(client.url + "/health") as response:
            assert response.status == 500

    against(scenario)


def test_a_delay_waits_and_a_hang_lasts_until_cleared():
    async def scenario(client: Client) -> None:
        clock = asyncio.get_running_loop().time
        body = chat(("user", "Hello"), max_tokens=3)
        await client.fault("delay", delay_s=0.2)
        began = clock()
        await client.ok("/v1/chat/completions", body)
        assert clock() - began >= 0.19
        for fields in ({}, {"after_chunks": 2}):
            for stream in (False, True):
                await client.fault("hang", **fields)
                plain = {**body, "max_tokens": 6, "stream": stream}
                pending = asyncio.ensure_future(client.text("/v1/chat/completions", plain))
                await asyncio.sleep(0.1)
                assert not pending.done()
                async with client.session.delete(client.url + "/sim/fault"):
                    pass
                text = await pending
                if stream:
                    assert len(events(text)) == 8
                else:
                    assert json.loads(text)["usage"]["completion_tokens"] == 6

    against(scenario)


async def connectable(server: ReplicaServer) -> None:
    """Wait until the port takes connections."""
    async with asyncio.timeout(60):
        while True:
            try:
                _reader, writer = await asyncio.open_connection(server.host, server.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return


def test_cutting_closes_the_connection_at_the_head_in_the_stream_or_in_the_body():
    async def scenario(client: Client) -> None:
        server = client.servers[0]
        body = chat(("user", "Hello"), max_tokens=20)
        for stream in (False, True):
            await client.fault("cut", at="head")
            assert await raw_exchange(server, {**body, "stream": stream}) == b""
        await client.fault("cut", after_chunks=3)
        answer = await raw_exchange(server, {**body, "stream": True})
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"data: ") == 3
        assert not answer.endswith(b"0\r\n\r\n")
        await client.fault("cut")
        answer = await raw_exchange(server, body)
        head, _, rest = answer.partition(b"\r\n\r\n")
        promised = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert 0 < len(rest) < promised
        await client.fault("500", after_chunks=2)
        found = events(await client.text("/v1/chat/completions", {**body, "stream": True}))
        assert len(found) == 4
        assert found[2][1]["error"]["code"] == 500
        assert found[3] == (None, "[DONE]")
        stats = await client.until(lambda stats: not stats["in_flight"])
        assert (stats["running"], stats["waiting"]) == (0, 0)

    against(scenario)


def test_a_restart_cuts_connections_empties_the_cache_and_refuses_while_down():
    async def scenario(client: Client) -> None:
        body = chat(("user", SYSTEM), max_tokens=1)
        await client.ok("/v1/chat/completions", body)
        before = await client.stats()
        assert before["cached_blocks"] > 0
        stream = asyncio.ensure_future(
            client.text("/v1/chat/completions", {**body, "max_tokens": 100_000, "stream": True})
        )
        await client.until(lambda stats: stats["running"] == 1)
        await client.fault("restart", down_s=2.0)
        with pytest.raises(aiohttp.ClientError):
            await stream
        with pytest.raises(OSError, match="Connect call failed|refused"):
            await asyncio.open_connection(client.servers[0].host, client.servers[0].port)
        await connectable(client.servers[0])
        after = await client.stats()
        assert after["restarts"] == 1
        assert after["start_time_s"] > before["start_time_s"]
        assert (after["cached_blocks"], after["running"], after["in_flight"]) == (0, 0, 0)
        usage = (await client.ok("/v1/chat/completions", body))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0

    against(scenario)


def test_a_refusing_port_lets_streams_finish_and_is_opened_by_a_sibling():
    async def scenario(client: Client) -> None:
        first, second = client.servers
        body = chat(("user", "Hello"), max_tokens=200, stream=True)
        stream = asyncio.ensure_future(client.text("/v1/chat/completions", body))
        await client.until(lambda stats: stats["running"] == 1)
        other = Client(client.session, [second, first])
        await other.fault("refuse", port=first.port, down_s=-1)
        with pytest.raises(OSError, match="Connect call failed|refused"):
            await asyncio.open_connection(first.host, first.port)
        assert len(events(await stream)) == 202
        async with client.session.delete(f"{second.url}/sim/fault?port={first.port}") as response:
            assert response.status == 200
        await connectable(first)
        await client.ok("/v1/chat/completions", chat(("user", "Hello"), max_tokens=1))

    against(scenario, config(SLOW), ports=2)
