"""Fixtures that several integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.replica_pair import Pair, paired
from tests.support.scripted_upstream import (
    answer_ok,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Pair]:
    with paired() as pair:
        yield pair


@pytest.fixture
def pair(shared: Pair) -> Iterator[Pair]:
    shared.first.script = shared.second.script = answer_ok
    shared.first.received.clear()
    shared.second.received.clear()
    shared.router.wait_ready(2)
    yield shared
    shared.router.assert_at_rest()
