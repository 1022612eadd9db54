"""What workers and load reports ask of the other settings."""

from __future__ import annotations

import pytest

from warmroute.config.errors import ConfigError
from warmroute.config.load import load
from warmroute.config.schema import Config

REDIS = ("--registry", "registry.url", "redis://10.0.0.9")


def loaded(*settings: tuple[str, str, str]) -> Config:
    return load([("--replica", "replicas", "http://10.0.0.1:8000"), *settings], environ={})


def test_several_workers_without_a_shared_registry_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(("--workers", "workers", "2"))
    assert refused.value.key == "workers"
    assert refused.value.where == "--workers"
    assert "--registry redis://" in str(refused.value)


def test_several_workers_with_a_redis_and_one_without_are_fine() -> None:
    assert loaded(("--workers", "workers", "2"), REDIS).workers == 2
    assert loaded(("--workers", "workers", "1")).workers == 1
    assert loaded().workers == 1


@pytest.mark.parametrize("count", ["0", "-1", "257", "two"])
def test_a_count_of_workers_that_makes_no_sense_is_refused(count: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(("--workers", "workers", count), REDIS)
    assert refused.value.key == "workers"


def test_leases_that_would_expire_between_two_notices_are_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(REDIS, ("--set", "leases.publish_interval_s", "0.5"))
    assert refused.value.key == "leases.expire_s"
    assert loaded(REDIS, ("--set", "leases.publish_interval_s", "0.25")).leases.expire_s == 1.0
