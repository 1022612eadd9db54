"""What other routers have under way, case by case; the property suite has the rest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from warmroute.core.beliefs.cache_event import BEGUN, COMPUTED, LOST, CacheEvent
from warmroute.core.fleet.peer_load import MAX_ROUTERS, Load, Notice, PeerLoad, Peers

OWN, A, B = 1, 2, 3


def load(key: int, in_flight: int, work: int = 0, given: int = 0, age_ms: int = 0) -> Load:
    """One prompt of so much work."""
    return Load(key, in_flight, given, work, work, age_ms, work)


def of(ledger: Peers, key: int) -> tuple[int, int]:
    peer_load = ledger.of(key, 0.0)
    return peer_load.in_flight, peer_load.work_tokens


def notice(
    router: int,
    number: int,
    *loads: Load,
    whole: bool = False,
    asking: bool = False,
    uses: Sequence[tuple[int, CacheEvent]] = (),
) -> Notice:
    return Notice(router, number, whole, asking, loads, uses=uses)


def kinds(told: PeerLoad) -> list[tuple[int, int]]:
    """Of the uses that the fleet is told."""
    return [(router, use.kind) for router, use, _ in told.uses]


def test_the_load_of_several_routers_adds_up() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 0, load(7, 2, 100, given=100), whole=True), 0.0)
    ledger.take(notice(B, 0, load(7, 1, 10, given=10), load(8, 4, 0, given=0), whole=True), 0.0)
    assert of(ledger, 7) == (3, 110)
    assert of(ledger, 8) == (4, 0)
    assert of(ledger, 9) == (0, 0)
    assert ledger.routers == 2
    ledger.validate()


def test_what_this_router_says_itself_is_not_foreign() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(OWN, 0, load(7, 2, 100, given=100), whole=True, asking=True), 0.0)
    assert (ledger.routers, of(ledger, 7), ledger.asked) == (0, (0, 0), False)


def test_a_silent_router_counts_until_it_expires_and_no_longer() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 0, load(7, 2, 100, given=100), whole=True), 5.0)
    ledger.expire(5.99)
    assert of(ledger, 7) == (2, 100)
    ledger.expire(6.0)
    assert of(ledger, 7) == (0, 0)
    assert ledger.routers == 0
    ledger.validate()


def test_any_notice_keeps_a_router_alive() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 0, load(7, 2, 100, given=100), whole=True), 0.0)
    ledger.take(notice(A, 1), 0.9)
    ledger.expire(1.5)
    assert of(ledger, 7) == (2, 100)


def test_a_whole_notice_takes_back_what_it_does_not_name() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 0, load(7, 2, 100, given=100), load(8, 1, 1, given=1), whole=True), 0.0)
    ledger.take(notice(A, 1, load(8, 1, 1, given=1), whole=True), 0.1)
    assert of(ledger, 7) == (0, 0)
    assert of(ledger, 8) == (1, 1)
    ledger.validate()


def test_a_lost_notice_is_missed_until_a_whole_one_comes() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 0, whole=True), 0.0)
    assert not ledger.missing
    ledger.take(notice(A, 2, load(7, 1, 0, given=0)), 0.1)
    assert ledger.missing
    assert of(ledger, 7) == (1, 0)
    ledger.take(notice(A, 3, load(7, 1, 0, given=0), whole=True), 0.2)
    assert not ledger.missing


def test_numbers_and_given_tokens_wrap_around() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 2**32 - 1, load(7, 1, 0, given=2**32 - 50), whole=True), 0.0)
    ledger.collect(0.1)
    ledger.take(notice(A, 0, load(7, 1, 0, given=150)), 0.1)
    assert not ledger.missing
    assert [told[:3] for told in ledger.collect(0.1)] == [(7, 1, 200)]


def test_what_was_given_before_a_router_was_heard_of_is_not_counted_as_given_now() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 9, load(7, 1, 0, given=5_000_000)), 0.0)
    assert [told[:3] for told in ledger.collect(0.1)] == [(7, 1, 0)]
    assert ledger.missing
    ledger.take(notice(A, 10, load(7, 0, 0, given=5_000_300)), 0.1)
    assert [told[:3] for told in ledger.collect(0.1)] == [(7, 0, 300)]
    assert ledger.collect(0.1) == []


def test_more_routers_than_any_deployment_has_are_not_kept() -> None:
    ledger = Peers(OWN, 1.0)
    for router in range(2, MAX_ROUTERS + 50):
        ledger.take(notice(router, 0, load(7, 1, 0, given=0), whole=True), 0.0)
    assert ledger.routers == MAX_ROUTERS
    assert of(ledger, 7) == (MAX_ROUTERS, 0)


def test_uses_are_told_once_with_their_router_and_how_long_ago_they_were_heard_of() -> None:
    ledger = Peers(OWN, 1.0)
    begun, over = CacheEvent(BEGUN, 1, 90, -0.01), CacheEvent(COMPUTED, 1, 0, 0.0)
    ledger.take(notice(A, 0, load(7, 1), whole=True, uses=[(7, begun), (8, begun)]), 0.0)
    assert ledger.of(7, 0.1).uses == ()
    ledger.take(notice(B, 0, load(7, 1), whole=True, uses=[(7, begun)]), 0.25)
    assert [told.uses for told in ledger.collect(0.5)] == [[(A, begun, 0.5), (B, begun, 0.25)]]
    ledger.take(notice(A, 1, load(7, 0), uses=[(7, over)]), 0.6)
    ledger.take(notice(B, 1, load(7, 0)), 0.6)
    assert [told.uses for told in ledger.collect(0.6)] == [[(A, over, 0.0)]]
    ledger.take(notice(A, 2, load(7, 0), uses=[(7, over)]), 0.7)
    assert [told.uses for told in ledger.collect(0.7)] == [[(A, over, 0.0)]], "though its load is as it was"


@pytest.mark.parametrize("how", ["a gap", "silence", "its replica is not named any more"])
def test_whoever_cannot_be_followed_has_lost_what_it_had_under_way(how: str) -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 0, load(7, 1), whole=True), 0.0)
    ledger.take(notice(B, 0, load(7, 1), whole=True), 0.9)
    ledger.collect(0.9)
    if how == "a gap":
        ledger.take(notice(A, 2, load(7, 1), uses=[(7, CacheEvent(BEGUN, 4, 9, 0.0))]), 0.95)
        after = [(A, LOST), (A, BEGUN)]
    elif how == "silence":
        ledger.expire(1.0)
        after = [(A, LOST)]
    else:
        ledger.take(notice(A, 1, load(9, 0), whole=True), 0.95)
        after = [(A, LOST)]
    assert [kinds(told) for told in ledger.collect(1.0) if told.key == 7] == [after]


def test_the_engine_is_at_its_prompt_since_the_latest_that_anybody_told() -> None:
    ledger = Peers(OWN, 10.0)
    ledger.take(notice(A, 0, load(7, 1, 900, age_ms=700), whole=True), 5.0)
    ledger.take(notice(B, 0, load(7, 1, 400, age_ms=200), whole=True), 5.1)
    assert ledger.of(7, 6.0)[3:5] == (1300, 900)
    assert ledger.of(7, 6.0)[5] == pytest.approx(6.0 - 4.9)
    ledger.take(notice(A, 1, load(7, 1, 0, age_ms=0)), 5.5)
    assert ledger.of(7, 6.0)[3:5] == (400, 400)
    assert ledger.of(7, 6.0)[5] == pytest.approx(0.5)
    ledger.validate()
