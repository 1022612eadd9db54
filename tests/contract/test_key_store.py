"""One suite over every place that keeps keys, and what a file promises besides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import RedisServer
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.tenants.key_file import KeyFile
from warmroute.adapters.tenants.key_redis import RedisKeys
from warmroute.ports import KeyStore, KeyStoreError
from warmroute.tenants.keys import KeyRecord

Open = Callable[[], KeyStore]
_namespaces = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["file", "redis"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same place anew each time, as another process would."""
    if request.param == "file":
        return lambda: KeyFile(str(tmp_path / "keys"), 0.05)
    running: RedisServer = request.getfixturevalue("server")
    namespace = f"k{next(_namespaces)}"
    return lambda: RedisKeys(RedisLink(running.url), namespace, 0.05)


def record(key_id: str, **fields: Any) -> KeyRecord:
    return KeyRecord(id=key_id, tenant="t", sha256=key_id.encode().hex().ljust(64, "0"), **fields)


@asynccontextmanager
async def watched(store: KeyStore) -> AsyncIterator[list[list[str]]]:
    seen: list[list[str]] = []
    await store.start(lambda records: seen.append([one.id for one in records]))
    try:
        yield seen
    finally:
        await store.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_one_adds_and_revokes_the_others_hear(opener: Open) -> None:
    async def run() -> None:
        async with watched(opener()) as seen, watched(opener()) as others_seen:
            await until(lambda: len(seen) == 1)
            assert seen == [[]]
            store = opener()
            async with watched(store):
                await store.add(record("a", name="x", models=("m",), expires_s=5.0))
                await store.add(record("b"))
                await until(lambda: seen[-1] == others_seen[-1] == ["a", "b"])
                assert await store.revoke("a")
                assert not await store.revoke("a")
                assert not await store.revoke("#")
                await until(lambda: seen[-1] == others_seen[-1] == ["b"])
                assert await store.records() == [record("b")]

    asyncio.run(run())


def test_nothing_is_told_twice(opener: Open) -> None:
    async def run() -> None:
        store = opener()
        async with watched(store) as seen:
            await store.add(record("a"))
            await until(lambda: seen[-1:] == [["a"]])
            told = len(seen)
            await asyncio.sleep(0.3)
            assert len(seen) <= told + 1  # a file that is young is read once more

    asyncio.run(run())


def test_an_id_or_a_key_that_is_there_is_not_added_again(opener: Open) -> None:
    async def run() -> None:
        store = opener()
        async with watched(store):
            await store.add(record("a"))
            with pytest.raises(KeyStoreError, match="already"):
                await store.add(record("a", name="other"))
            with pytest.raises(KeyStoreError, match="already"):
                await store.add(KeyRecord(id="b", tenant="t", sha256=record("a").sha256))
            assert await store.records() == [record("a")]

    asyncio.run(run())


def test_many_who_write_at_once_lose_nothing(opener: Open) -> None:
    async def run() -> None:
        stores = [opener() for _ in range(4)]
        for store in stores:
            await store.start(lambda _: None)
        await asyncio.gather(*[stores[n % 4].add(record(f"k{n:02}")) for n in range(12)])
        assert sorted(one.id for one in await stores[0].records()) == [f"k{n:02}" for n in range(12)]
        for store in stores:
            await store.stop()

    asyncio.run(run())


def test_a_file_with_a_fault_leaves_the_last_good_keys_and_at_the_start_it_is_an_error(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        path = tmp_path / "keys"
        store = KeyFile(str(path), 0.02)
        async with watched(store) as seen:
            await store.add(record("a"))
            await until(lambda: seen[-1:] == [["a"]])
            path.write_text(path.read_text() + "# a comment\n\nnonsense-canary\n")
            await asyncio.sleep(0.3)
            assert seen[-1] == ["a"]
            with pytest.raises(KeyStoreError, match=r"keys:4: no record of a key"):
                await store.records()
            with pytest.raises(KeyStoreError):
                await KeyFile(str(path)).start(lambda _: None)
            path.unlink()
            await asyncio.sleep(0.1)
            assert seen[-1] == ["a"]

    asyncio.run(run())


def test_a_file_keeps_its_comments_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "keys"
        store = KeyFile(str(path))
        await store.add(record("a"))
        assert os.stat(path).st_mode & 0o777 == 0o600
        path.write_text("# ours\n" + path.read_text())
        await store.add(record("b"))
        assert await store.revoke("a")
        assert path.read_text().startswith("# ours\n")
        assert [one.id for one in await store.records()] == ["b"]

    asyncio.run(run())


def test_a_file_stays_its_owners_whoever_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        path = tmp_path / "keys"
        store = KeyFile(str(path), 0.05)
        await store.add(record("a"))
        given: list[tuple[int, int]] = []

        def give(descriptor: int, user: int, group: int) -> None:
            given.append((user, group))

        other = os.stat(path)
        owner = (other.st_uid + 1000, other.st_gid + 1000)
        was = os.stat

        def owned(place: Any, **named: Any) -> os.stat_result:
            found = was(place, **named)
            if place != os.path.realpath(path):
                return found
            return os.stat_result((*found[:4], *owner, *found[6:]))

        monkeypatch.setattr(os, "fchown", give)
        monkeypatch.setattr(os, "stat", owned)
        await store.add(record("b"))
        assert given == [owner, owner], "the lock's too"

        def refuse(descriptor: int, user: int, group: int) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "fchown", refuse)
        with pytest.raises(KeyStoreError, match="Operation not permitted"):
            await store.revoke("a")
        monkeypatch.undo()
        assert [one.id for one in await store.records()] == ["a", "b"], "as it was, and its owner's"
        assert sorted(os.listdir(tmp_path)) == ["keys", "keys.lock"]

    asyncio.run(run())


def test_keys_that_are_mounted_read_only_are_changed_elsewhere(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(KeyStoreError, match="cannot be changed"):
            await KeyFile(str(tmp_path / "none" / "keys")).add(record("a"))

    asyncio.run(run())


def test_while_redis_is_away_the_last_keys_stay_and_changes_come_when_it_is_back() -> None:
    async def run() -> None:
        with RedisServer() as own:
            store = RedisKeys(RedisLink(own.url), "k", 0.05)
            async with watched(store) as seen:
                await store.add(record("a"))
                await until(lambda: seen[-1:] == [["a"]])
                own.stop()
                with pytest.raises(KeyStoreError):
                    await store.records()
                assert seen[-1] == ["a"]
                own.start()
                await until(
                    lambda: seen[-1] == []
                )  # it keeps nothing over a restart, and that is a change too

    asyncio.run(run())
