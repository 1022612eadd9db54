"""What every load board that is shared does: the one in Redis, and the one in memory that other tests use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from random import Random

import pytest

from tests.support.load_boards import ListBoard, SharedList
from tests.support.redis_server import RedisServer
from warmroute import tasks
from warmroute.adapters.load_board.redis import KEPT, RedisLoadBoard
from warmroute.ports import LoadBoard

MakeBoard = Callable[[], LoadBoard]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> MakeBoard:
    if request.param == "memory":
        common = SharedList()
        return lambda: ListBoard(common)
    server: RedisServer = request.getfixturevalue("server")
    server.command("FLUSHALL")
    return lambda: patient(server)


def test_a_board_rings_when_another_has_posted(make: MakeBoard) -> None:
    async def run(one: LoadBoard, two: LoadBoard) -> None:
        rung = asyncio.Event()
        two.listen(rung.set)
        for notice in (b"a", b"b"):
            await two.exchange(None)
            rung.clear()
            await one.exchange(notice)
            async with asyncio.timeout(60):
                await rung.wait()
                assert list(await two.exchange(None) or ()) == [notice]

    with_boards(make, 2, run)


def patient(server: RedisServer, namespace: str = "w") -> RedisLoadBoard:
    """A board whose deadline says nothing about how busy the machine is."""
    return RedisLoadBoard(server.url, namespace=namespace, deadline_s=30.0)


def with_boards(make: MakeBoard, count: int, run: Callable[..., Awaitable[None]]) -> None:
    """Run with so many boards, each of which has posted its first notice, numbered `first-0` and so on."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            boards = [make() for _ in range(count)]
            for number, board in enumerate(boards):
                await board.start()
                stack.push_async_callback(board.stop)
                await connected(board, b"first-%d" % number)
            await run(*boards)

    asyncio.run(main())


async def connected(board: LoadBoard, notice: bytes) -> None:
    async with asyncio.timeout(60):
        while await board.exchange(notice) is None:
            await asyncio.sleep(0.01)


def test_what_one_posts_the_others_read_once_and_in_order(make: MakeBoard) -> None:
    async def run(one: LoadBoard, two: LoadBoard) -> None:
        await one.exchange(b"a")
        await one.exchange(b"b")
        heard = await two.exchange(b"c")
        assert heard is not None
        assert [notice for notice in heard if notice != b"c"] == [b"a", b"b"]
        assert await two.exchange(None) in ([], [b"c"])
        heard = await one.exchange(None)
        assert heard is not None
        assert heard[-1] == b"c"

    with_boards(make, 2, run)


def test_what_was_posted_before_a_board_first_spoke_is_not_read(make: MakeBoard) -> None:
    async def run(one: LoadBoard) -> None:
        await one.exchange(b"old")
        late = make()
        await late.start()
        await connected(late, b"hello")
        await one.exchange(b"new")
        assert list(await late.exchange(None) or ()) == [b"new"]
        await late.stop()

    with_boards(make, 1, run)


def test_a_board_that_only_listens_sends_nothing(make: MakeBoard) -> None:
    async def run(one: LoadBoard, two: LoadBoard) -> None:
        assert list(await one.exchange(None) or ()) == [b"first-1"]
        assert list(await two.exchange(None) or ()) == []

    with_boards(make, 2, run)


def test_any_bytes_pass(make: MakeBoard) -> None:
    async def run(one: LoadBoard, two: LoadBoard) -> None:
        sent = [b"", b"\x00\r\n$5\xff" * 5, bytes(100_000)]
        for notice in sent:
            await one.exchange(notice)
        assert list(await two.exchange(None) or ()) == sent

    with_boards(make, 2, run)


def test_redis_keeps_a_bounded_number_of_notices_and_forgets_all_in_the_end(server: RedisServer) -> None:
    server.command("FLUSHALL")

    async def run(board: LoadBoard) -> None:
        for _ in range(KEPT + 1000):
            await board.exchange(b"n")
        assert server.command("XLEN", "w:load") <= KEPT + 200
        assert 0 < server.command("PTTL", "w:load") <= 60_000

    with_boards(lambda: patient(server), 1, run)


def test_namespaces_do_not_hear_each_other(server: RedisServer) -> None:
    async def run(one: LoadBoard) -> None:
        other = patient(server, namespace="other")
        await other.start()
        await connected(other, b"hello")
        await other.exchange(b"elsewhere")
        assert list(await one.exchange(None) or ()) == []
        await other.stop()

    with_boards(lambda: patient(server), 1, run)


def test_a_redis_that_dies_or_hangs_is_nobody_until_it_is_back() -> None:
    async def run(server: RedisServer) -> None:
        board = RedisLoadBoard(server.url, deadline_s=0.2)
        await board.start()
        await connected(board, b"first")
        await asyncio.to_thread(server.kill)
        assert await board.exchange(b"lost") is None
        await asyncio.to_thread(server.start)
        await connected(board, b"again")
        await asyncio.to_thread(server.pause)
        async with asyncio.timeout(60):
            assert await board.exchange(b"lost") is None
            assert await board.exchange(b"lost") is None
        await asyncio.to_thread(server.resume)
        await connected(board, b"again")
        other = patient(server)
        await other.start()
        await connected(other, b"other")
        assert list(await board.exchange(None) or ()) == [b"other"]
        await other.stop()
        await board.stop()

    with RedisServer() as server:
        asyncio.run(run(server))


def test_a_server_whose_clock_is_behind_is_listened_to_again(server: RedisServer) -> None:
    server.command("FLUSHALL")
    server.command("XADD", "w:load", "9999999999999-0", "l", "from the future")

    async def run(board: LoadBoard) -> None:
        server.command("FLUSHALL")
        assert await board.exchange(b"here") is None
        await connected(board, b"anew")
        server.command("XADD", "w:load", "*", "l", "other")
        assert list(await board.exchange(None) or ()) == [b"other"]

    with_boards(lambda: patient(server), 1, run)


def test_a_user_without_the_commands_is_told_once_and_not_asked_all_the_time(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.command("ACL", "SETUSER", "reader", "on", ">secret", "~w:*", "+get", "+mget")

    async def run() -> int:
        board = RedisLoadBoard(f"redis://reader:secret@127.0.0.1:{server.port}", rng=Random(1))
        await board.start()
        tries = 0
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s or not tries:
            before = board.errors
            assert await board.exchange(b"notice") is None
            tries += board.errors - before
            await asyncio.sleep(0.01)
        await board.stop()
        return tries

    assert 1 <= asyncio.run(run()) <= 8
    assert [record.getMessage().split()[0] for record in caplog.records] == ["leases_refused"]


def test_what_nobody_expected_is_told_and_the_board_connects_all_the_same(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "RESTART_DELAY_S", 0.01)
    server.command("FLUSHALL")

    class Odd(RedisLoadBoard):
        crashed = False

        async def _connect(self) -> None:
            if not self.crashed:
                self.crashed = True
                raise LookupError("nobody expected this")
            await super()._connect()

    async def run() -> None:
        board = Odd(server.url, deadline_s=30.0, rng=Random(1))
        await board.start()
        async with asyncio.timeout(60):
            while await board.exchange(b"notice") is None:
                await asyncio.sleep(0.01)
        await board.stop()

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records] == ["task_crashed"]
