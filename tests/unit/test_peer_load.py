"""What other routers have under way, case by case; the property suite has the rest."""

from __future__ import annotations

import pytest

from warmroute.core.fleet.peer_load import MAX_ROUTERS, Load, Notice, Peers

OWN, A, B = 1, 2, 3


def load(key: int, in_flight: int, work: int = 0, given: int = 0, added: int = 0, age_ms: int = 0) -> Load:
    """One prompt of so much work."""
    return Load(key, in_flight, given, added, work, work, age_ms, work)


def of(ledger: Peers, key: int) -> tuple[int, int]:
    peer_load = ledger.of(key, 0.0)
    return peer_load.in_flight, peer_load.work_tokens


def notice(router: int, number: int, *loads: Load, whole: bool = False, asking: bool = False) -> Notice:
    return Notice(router, number, whole, asking, loads)


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


def test_tokens_added_may_be_taken_back_and_wrap_around() -> None:
    ledger = Peers(OWN, 1.0)
    ledger.take(notice(A, 0, load(7, 1, added=2**32 - 100), whole=True), 0.0)
    ledger.collect(0.0)
    ledger.take(notice(A, 1, load(7, 1, added=50)), 0.1)
    ledger.take(notice(A, 2, load(7, 1, added=2**32 - 250)), 0.1)
    assert [told[3] for told in ledger.collect(0.1)] == [-150]


def test_the_engine_is_at_its_prompt_since_the_latest_that_anybody_told() -> None:
    ledger = Peers(OWN, 10.0)
    ledger.take(notice(A, 0, load(7, 1, 900, age_ms=700), whole=True), 5.0)
    ledger.take(notice(B, 0, load(7, 1, 400, age_ms=200), whole=True), 5.1)
    assert ledger.of(7, 6.0)[4:6] == (1300, 900)
    assert ledger.of(7, 6.0)[6] == pytest.approx(6.0 - 4.9)
    ledger.take(notice(A, 1, load(7, 1, 0, age_ms=0)), 5.5)
    assert ledger.of(7, 6.0)[4:6] == (400, 400)
    assert ledger.of(7, 6.0)[6] == pytest.approx(0.5)
    ledger.validate()
