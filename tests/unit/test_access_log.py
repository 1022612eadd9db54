"""The access log: whole lines in order, and never a wait for a slow reader."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from warmroute.telemetry import access_log
from warmroute.telemetry.access_log import AccessEntry, AccessLog


def entry(index: int, path: str = "/v1/chat/completions") -> AccessEntry:
    return AccessEntry(
        time=1.5,
        request_id=str(index),
        client="127.0.0.1",
        method="POST",
        path=path,
        api="chat",
        model="m",
        status=200,
    )


def test_every_line_is_written_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.json"
    path.write_text('{"request_id":"before"}\n')

    async def scenario() -> None:
        log = AccessLog(str(path))
        log.start()
        for index in range(3_000):
            log.write(entry(index))
        await log.stop()
        assert log.dropped == 0

    asyncio.run(scenario())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ["before", *map(str, range(3_000))]
    assert list(lines[1]) == list(AccessEntry.__struct_fields__)
    assert lines[1]["cached_tokens"] is None


def test_a_line_reaches_the_file_without_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "access.json"

    async def scenario() -> None:
        log = AccessLog(str(path))
        log.start()
        log.write(entry(1, 'a"\n\x00é'))
        async with asyncio.timeout(60):
            while not path.read_bytes():
                await asyncio.sleep(0.02)
        assert json.loads(path.read_text())["path"] == 'a"\n\x00é'
        await log.stop()

    asyncio.run(scenario())


async def written(log: AccessLog, path: Path, index: int) -> None:
    """Write one line and wait until the file of this name has it."""
    log.write(entry(index))
    async with asyncio.timeout(60):
        while not path.exists() or f'"request_id":"{index}"' not in path.read_text():
            await asyncio.sleep(0.02)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("told", [True, False])
def test_a_file_that_is_moved_keeps_its_lines_and_a_new_one_gets_the_next(tmp_path: Path, told: bool) -> None:
    path, rotated = tmp_path / "access.json", tmp_path / "access.json.1"

    async def scenario() -> None:
        log = AccessLog(str(path))
        log.start()
        await written(log, path, 1)
        path.rename(rotated)
        if told:
            log.reopen()
            async with asyncio.timeout(60):
                while not path.exists():
                    await asyncio.sleep(0.02)
        await written(log, path, 2)
        assert (ids(rotated), ids(path)) == (["1"], ["2"])
        path.unlink()
        await written(log, path, 3)
        rotated.write_bytes(path.read_bytes())
        os.truncate(path, 0)
        await written(log, path, 4)
        await log.stop()
        assert log.dropped == 0

    asyncio.run(scenario())
    assert ids(rotated) == ["3"]
    assert ids(path) == ["4"]


def test_a_burst_while_the_file_is_moved_again_and_again_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "access.json"

    async def scenario() -> None:
        log = AccessLog(str(path))
        log.start()
        for index in range(4_000):
            log.write(entry(index))
            if index % 1_000 == 999:
                async with asyncio.timeout(60):
                    while not path.exists():
                        await asyncio.sleep(0.02)
                path.rename(tmp_path / f"access.json.{index}")
        await log.stop()
        assert log.dropped == 0

    asyncio.run(scenario())
    seen = [line for part in tmp_path.iterdir() for line in ids(part)]
    assert sorted(map(int, seen)) == list(range(4_000))


def test_a_name_that_can_no_longer_be_opened_leaves_the_old_file_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    path = folder / "access.json"

    async def scenario() -> None:
        log = AccessLog(str(path))
        log.start()
        await written(log, path, 1)
        folder.rename(moved)
        await written(log, moved / "access.json", 2)
        await log.stop()
        assert log.dropped == 0

    asyncio.run(scenario())
    assert ids(moved / "access.json") == ["1", "2"]
    assert [record.message.split()[0] for record in caplog.records] == ["access_log_failed"]


def test_a_reader_that_stops_reading_costs_lines_not_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(access_log, "MAX_PENDING_BYTES", 256 << 10)
    monkeypatch.setattr(access_log, "STOP_TIMEOUT_S", 0.05)
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    async def scenario() -> AccessLog:
        log = AccessLog(str(fifo))
        log.start()
        loop = asyncio.get_running_loop()
        slowest_s = 0.0
        for index in range(20_000):
            start_s = loop.time()
            log.write(entry(index))
            slowest_s = max(slowest_s, loop.time() - start_s)
        assert slowest_s < 0.5
        assert log.dropped > 10_000
        start_s = loop.time()
        await log.stop()
        assert loop.time() - start_s < 2.0
        return log

    log = asyncio.run(scenario())
    assert log._handed_bytes <= 256 << 10
    os.close(reader)  # the writer's pending write fails now, and it ends
    assert log._thread is not None
    log._thread.join(5)
    assert not log._thread.is_alive()


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        AccessLog(str(tmp_path / "missing" / "access.json")).start()

    with pytest.raises(FileNotFoundError):
        asyncio.run(scenario())


def test_a_full_disk_costs_lines_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> int:
        log = AccessLog("/dev/full")
        log.start()
        for index in range(10):
            log.write(entry(index))
        await log.stop()
        return log.dropped

    assert asyncio.run(scenario()) == 10
    assert [record.message.split()[0] for record in caplog.records] == ["access_log_failed"]
