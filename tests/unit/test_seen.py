"""What was seen before."""

from __future__ import annotations

from warmroute.core.beliefs.seen import Seen
from warmroute.core.types import FingerprintHash


def rungs(*numbers: int) -> list[FingerprintHash]:
    return [FingerprintHash(number) for number in numbers]


def test_the_deepest_rung_seen_before_is_told_and_all_are_noted() -> None:
    seen = Seen()
    assert seen.depth(rungs(1, 2, 3), 1.0) == -1
    assert seen.depth(rungs(1, 2, 9), 2.0) == 1
    assert seen.depth(rungs(1, 2, 9), 3.0) == 2
    assert seen.depth([], 3.0) == -1


def test_what_nobody_sent_for_two_lifetimes_is_forgotten() -> None:
    seen = Seen(lifetime_s=10.0)
    seen.depth(rungs(1, 2), 100.0)
    seen.depth(rungs(3), 111.0)
    assert seen.depth(rungs(1, 2), 112.0) == 1
    seen.depth(rungs(3), 122.0)
    seen.depth(rungs(3), 133.0)
    assert seen.depth(rungs(1, 2), 134.0) == -1


def test_memory_is_bounded_whatever_clients_send() -> None:
    seen = Seen(max_rungs=100)
    for number in range(10_000):
        seen.depth(rungs(10 * number, 10 * number + 1), 1.0)
        assert len(seen) <= 2 * 102
