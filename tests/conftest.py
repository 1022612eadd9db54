"""Settings of all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

import warmroute.dataplane.exchange as exchange

# No deadline and no complaint about slow generation: how fast an example runs says how busy the machine is. The same
# examples at every run: whether a commit passes is not left to chance. `--hypothesis-profile search` looks for others.
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=False
)
settings.register_profile("warmroute", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("warmroute")


def pytest_report_header() -> str:
    """Which of the two the tests run: sources or the compiled package."""
    return f"router: {'compiled' if exchange.__file__.endswith('.so') else 'sources'} ({exchange.__file__})"


@pytest.fixture(scope="session", autouse=True)
def _installed_means_compiled() -> None:
    """`make test-installed` must not fall back on the sources unnoticed."""
    if os.environ.get("EXPECT_COMPILED") == "1":
        assert exchange.__file__.endswith(".so"), "the tests run the sources, not the compiled package"
