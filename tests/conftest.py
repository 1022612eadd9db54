"""Settings of all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

import router.dataplane.exchange as exchange

# No deadline and no complaint about slow generation: how fast an example runs says how busy the machine is.
settings.register_profile("warmroute", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("warmroute")


def pytest_report_header() -> str:
    """Which of the two the tests run: sources or the compiled package."""
    return f"router: {'compiled' if exchange.__file__.endswith('.so') else 'sources'} ({exchange.__file__})"


@pytest.fixture(scope="session", autouse=True)
def _installed_means_compiled() -> None:
    """`make test-installed` must not fall back on the sources unnoticed."""
    if os.environ.get("EXPECT_COMPILED") == "1":
        assert exchange.__file__.endswith(".so"), "the tests run the sources, not the compiled package"
