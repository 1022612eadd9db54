"""Two real replicas for the whole run, and a fresh router for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import RedisServer
from tests.support.vllm_fleet import RouterProcess
from warmroute_replica.vllm.launch import Fleet, Options


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Installs vLLM and makes the model at first use. On SIGTERM replicas may drain for a minute."""
    options = Options(shutdown_timeout_s=60, max_model_len=16384)
    with Fleet(2, print, preset="small", lora=["alpha"], options=options, start_timeout_s=500.0) as fleet:
        yield fleet


@pytest.fixture
def whole_fleet(fleet: Fleet) -> Fleet:
    """The fleet with every replica up, whatever the test before did to it."""
    for replica in fleet.replicas:
        replica.start()
    for replica in fleet.replicas:
        replica.wait_healthy(500.0)
    return fleet


@pytest.fixture
def router(whole_fleet: Fleet) -> Iterator[RouterProcess]:
    with RouterProcess(whole_fleet.urls) as router:
        yield router


@pytest.fixture
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url
