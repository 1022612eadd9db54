"""A worker that dies again and again is started again, and a supervisor that is told to end does."""

from __future__ import annotations

import asyncio
import os
import shutil

import pytest

from warmroute.config.schema import Address, Config, ReplicaConfig
from warmroute.supervisor import LONGEST_PAUSE_S, Supervisor


class Ended:
    """A process that has ended."""

    pid = 1

    def poll(self) -> int:
        return 3

    def close(self) -> None:
        return


@pytest.mark.parametrize("deaths", [0, 1, 10, 2000])
def test_however_often_a_worker_died_it_is_due_again_within_the_longest_pause(deaths: int) -> None:
    async def test() -> None:
        listen = Address("127.0.0.1:0")
        config = Config(listen=listen, admin=listen, replicas=(ReplicaConfig(url="http://r"),), workers=2)
        supervisor = Supervisor(config, lambda: config)
        try:
            place = supervisor._workers[0]
            place.deaths = deaths
            place.process = Ended()  # type: ignore[assignment]
            place.started_s = 100.0
            assert supervisor._reap(place, 101.0) == 3
            assert place.process is None
            assert place.deaths == deaths + 1
            assert 101.0 < place.due_s <= 101.0 + LONGEST_PAUSE_S
        finally:
            shutil.rmtree(supervisor._directory)

    asyncio.run(test())


def test_a_supervisor_that_is_told_to_end_while_it_is_about_to_become_a_new_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    became: list[str] = []
    monkeypatch.setattr(os, "execv", lambda path, _: became.append(path))

    async def test() -> None:
        listen = Address("127.0.0.1:0")
        config = Config(listen=listen, admin=listen, replicas=(ReplicaConfig(url="http://r"),), workers=2)
        supervisor = Supervisor(config, lambda: config)

        async def ended_meanwhile() -> None:
            supervisor._end()  # SIGTERM, while the new program is being loaded

        monkeypatch.setattr(supervisor, "_refusal", ended_meanwhile)
        try:
            await supervisor._become_new()
        finally:
            shutil.rmtree(supervisor._directory)

    asyncio.run(test())
    assert became == []
