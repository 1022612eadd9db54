"""Tests of the Helm chart need helm. Where it cannot be had they are skipped, but not in CI."""

from __future__ import annotations

import os

import pytest

from tests.support.helm import helm


@pytest.fixture(scope="session", autouse=True)
def _has_helm() -> None:
    try:
        helm()
    except RuntimeError as error:
        if os.environ.get("CHART_TESTS") == "required":
            raise
        pytest.skip(str(error))
