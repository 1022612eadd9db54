from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from warmroute_loadtest.demo.children import Children, DemoError


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def start() -> None:
        async with Children(tmp_path) as children:
            await children.start("router x", ["/no/such/program"])

    with pytest.raises(DemoError, match=r"router x cannot be started: /no/such/program: No such file"):
        asyncio.run(start())


def test_a_child_that_ended_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    async def start() -> None:
        async with Children(tmp_path) as children:
            code = "import sys; print('what went wrong'); sys.exit(3)"
            child = await children.start("replica 1", [sys.executable, "-c", code])
            await child.process.wait()
            children.check()

    with pytest.raises(
        DemoError, match=r"replica 1 ended with status 3; its last lines:\n    what went wrong"
    ):
        asyncio.run(start())


def test_a_child_is_not_told_of_the_packages_of_whoever_started_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DEMO_MARK", "seen")

    async def start() -> str:
        async with Children(tmp_path) as children:
            code = "import os; print(os.environ.get('PYTHONPATH'), os.environ['DEMO_MARK'])"
            child = await children.start("replica 1", [sys.executable, "-c", code])
            await child.process.wait()
            return child.log_path.read_text()

    assert asyncio.run(start()) == "None seen\n"


def test_children_are_ended_when_the_block_is_left_by_an_error(tmp_path: Path) -> None:
    pids = []

    async def start() -> None:
        async with Children(tmp_path) as children:
            for name in ("a", "b"):
                code = "import time; time.sleep(60)"
                pids.append((await children.start(name, [sys.executable, "-c", code])).process.pid)
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        asyncio.run(start())
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
