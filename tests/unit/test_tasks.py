"""Background tasks: kept, named, logged when they crash, all ended at the stop."""

from __future__ import annotations

import asyncio
import gc

import pytest

from warmroute import tasks as module
from warmroute.tasks import Tasks


def test_a_task_nobody_refers_to_runs_to_its_end() -> None:
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append(1)

    async def scenario() -> None:
        tasks = Tasks()
        tasks.spawn(work(), name="work")
        gc.collect()
        assert len(tasks) == 1
        async with asyncio.timeout(60):
            while len(tasks):
                await asyncio.sleep(0.01)
        await tasks.stop()

    asyncio.run(scenario())
    assert done == [1]


def test_a_crash_is_logged_with_its_name_and_spoils_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def crash() -> None:
        raise ValueError("broken")

    async def scenario() -> None:
        tasks = Tasks()
        tasks.spawn(crash(), name="probe a:1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await tasks.stop()

    asyncio.run(scenario())
    (record,) = caplog.records
    assert record.message == "task_crashed"
    assert record.fields == {"task": "probe a:1"}  # type: ignore[attr-defined]
    assert record.exc_info is not None


def test_stop_ends_all_tasks_and_those_they_spawn_while_they_end() -> None:
    ended: list[str] = []

    async def scenario() -> None:
        tasks = Tasks()

        async def wait(name: str, *, heir: bool) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(name)
                if heir:
                    tasks.spawn(wait(f"heir of {name}", heir=False), name="heir")

        for name in ("a", "b"):
            tasks.spawn(wait(name, heir=True), name=name)
        await asyncio.sleep(0)
        async with asyncio.timeout(50):
            await tasks.stop()
        assert len(tasks) == 0

    asyncio.run(scenario())
    assert sorted(ended) == ["a", "b"], "an heir is cancelled before its first step"


def test_a_supervised_loop_is_started_again_after_a_crash(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RESTART_DELAY_S", 0.0)
    runs: list[int] = []

    async def loop() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise KeyError("bug")

    async def scenario() -> None:
        tasks = Tasks()
        task = tasks.supervise(loop, name="membership")
        async with asyncio.timeout(50):
            await task
        await tasks.stop()

    asyncio.run(scenario())
    assert len(runs) == 3
    assert [record.message for record in caplog.records] == ["task_crashed", "task_crashed"]
