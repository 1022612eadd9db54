"""What a supervisor goes on after: workers that die again and again, signals at odd times, a disk that is full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warmroute.config.schema import Address, Config, ReplicaConfig
from warmroute.service.worker_processes import SERVING, Place
from warmroute.supervisor import LONGEST_PAUSE_S, Supervisor


class Ended:
    """A process that has ended."""

    pid = 1

    def poll(self) -> int:
        return 3

    def close(self) -> None:
        return


@contextlib.contextmanager
def supervising(config: Config, reload: Callable[[], Config]) -> Iterator[Supervisor]:
    supervisor = Supervisor(config, reload)
    try:
        yield supervisor
    finally:
        shutil.rmtree(supervisor._directory, ignore_errors=True)


def settings(**more: Any) -> Config:
    listen = Address("127.0.0.1:0")
    return Config(listen=listen, admin=listen, replicas=(ReplicaConfig(url="http://r"),), workers=2, **more)


@pytest.mark.parametrize("deaths", [0, 1, 10, 2000])
def test_however_often_a_worker_died_it_is_due_again_within_the_longest_pause(deaths: int) -> None:
    async def test() -> None:
        with supervising(settings(), settings) as supervisor:
            place = supervisor._workers[0]
            place.deaths = deaths
            place.process = Ended()  # type: ignore[assignment]
            place.started_s = 100.0
            assert supervisor._reap(place, 101.0) == 3
            assert place.process is None
            assert place.deaths == deaths + 1
            assert 101.0 < place.due_s <= 101.0 + LONGEST_PAUSE_S

    asyncio.run(test())


def test_a_supervisor_that_is_told_to_end_while_it_is_about_to_become_a_new_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    became: list[str] = []
    monkeypatch.setattr(os, "execv", lambda path, _: became.append(path))

    async def test() -> None:
        with supervising(settings(), settings) as supervisor:

            async def ended_meanwhile() -> None:
                supervisor._end()  # SIGTERM, while the new program is being loaded

            monkeypatch.setattr(supervisor, "_refusal", ended_meanwhile)
            await supervisor._become_new()

    asyncio.run(test())
    assert became == []


def test_settings_that_cannot_be_left_for_the_workers_are_refused_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        config = settings()
        with supervising(config, lambda: settings(max_attempts=7)) as supervisor:
            shutil.rmtree(supervisor._directory)  # as a disk that is full
            assert supervisor._reloaded(config) is config
            assert supervisor._config is config
            assert not supervisor._settings_current
            os.mkdir(supervisor._directory)
            assert supervisor._reloaded(config).max_attempts == 7
            assert supervisor._settings_current

    asyncio.run(test())
    assert "reload_failed" in caplog.text


def test_a_worker_has_served_though_the_sign_of_it_was_cleaned_away(tmp_path: Path) -> None:
    place = Place(0, str(tmp_path))
    assert not place.has_served
    place.socket_path = str(tmp_path / "0.1.sock")
    sign = Path(place.socket_path + SERVING)
    sign.touch()
    place.note_serving()
    sign.unlink()
    assert place.serves
    assert place.has_served
