"""What the registry's settings do to the registry that is opened."""

from __future__ import annotations

import pytest

from warmroute import backends
from warmroute.config.schema import Config, RegistryConfig
from warmroute.core.types import FingerprintHash, Incarnation

NOW_S = 1e9


@pytest.mark.parametrize("url", ["memory", "redis://127.0.0.1:1"])
@pytest.mark.parametrize("most", [None, 40])
def test_max_entries_bounds_what_is_kept_in_this_process_with_a_redis_too(url: str, most: int | None) -> None:
    registry = backends.registry(Config(registry=RegistryConfig(url=url, max_entries=most)), lambda: NOW_S)
    for first in range(0, 1_000, 10):
        registry.touch([FingerprintHash(first + n) for n in range(10)], Incarnation(1), NOW_S)
    figures = registry.statistics()
    kept = figures.get("local_entries", figures["entries"])
    assert kept == 1_000 if most is None else 0 < kept <= most
