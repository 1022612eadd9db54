"""What other routers have under way, case by case; the property suite has the rest."""

from __future__ import annotations

from router.core.foreign_load import MAX_ROUTERS, ForeignLoad, Load, Notice

OWN, A, B = 1, 2, 3


def notice(router: int, number: int, *loads: Load, whole: bool = False, asking: bool = False) -> Notice:
    return Notice(router, number, whole, asking, loads)


def test_the_load_of_several_routers_adds_up() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(A, 0, (7, 2, 100, 100), whole=True), 0.0)
    ledger.take(notice(B, 0, (7, 1, 10, 10), (8, 4, 0, 0), whole=True), 0.0)
    assert ledger.of(7) == (3, 110)
    assert ledger.of(8) == (4, 0)
    assert ledger.of(9) == (0, 0)
    assert ledger.routers == 2
    ledger.validate()


def test_what_this_router_says_itself_is_not_foreign() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(OWN, 0, (7, 2, 100, 100), whole=True, asking=True), 0.0)
    assert (ledger.routers, ledger.of(7), ledger.asked) == (0, (0, 0), False)


def test_a_silent_router_counts_until_it_expires_and_no_longer() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(A, 0, (7, 2, 100, 100), whole=True), 5.0)
    ledger.expire(5.99)
    assert ledger.of(7) == (2, 100)
    ledger.expire(6.0)
    assert ledger.of(7) == (0, 0)
    assert ledger.routers == 0
    ledger.validate()


def test_any_notice_keeps_a_router_alive() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(A, 0, (7, 2, 100, 100), whole=True), 0.0)
    ledger.take(notice(A, 1), 0.9)
    ledger.expire(1.5)
    assert ledger.of(7) == (2, 100)


def test_a_whole_notice_takes_back_what_it_does_not_name() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(A, 0, (7, 2, 100, 100), (8, 1, 1, 1), whole=True), 0.0)
    ledger.take(notice(A, 1, (8, 1, 1, 1), whole=True), 0.1)
    assert ledger.of(7) == (0, 0)
    assert ledger.of(8) == (1, 1)
    ledger.validate()


def test_a_lost_notice_is_missed_until_a_whole_one_comes() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(A, 0, whole=True), 0.0)
    assert not ledger.missing
    ledger.take(notice(A, 2, (7, 1, 0, 0)), 0.1)
    assert ledger.missing
    assert ledger.of(7) == (1, 0)
    ledger.take(notice(A, 3, (7, 1, 0, 0), whole=True), 0.2)
    assert not ledger.missing


def test_numbers_and_given_tokens_wrap_around() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(A, 2**32 - 1, (7, 1, 0, 2**32 - 50), whole=True), 0.0)
    ledger.collect()
    ledger.take(notice(A, 0, (7, 1, 0, 150)), 0.1)
    assert not ledger.missing
    assert ledger.collect() == [(7, 1, 0, 200)]


def test_what_was_given_before_a_router_was_heard_of_is_not_counted_as_given_now() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    ledger.take(notice(A, 9, (7, 1, 0, 5_000_000)), 0.0)
    assert ledger.collect() == [(7, 1, 0, 0)]
    assert ledger.missing
    ledger.take(notice(A, 10, (7, 0, 0, 5_000_300)), 0.1)
    assert ledger.collect() == [(7, 0, 0, 300)]
    assert ledger.collect() == []


def test_more_routers_than_any_deployment_has_are_not_kept() -> None:
    ledger = ForeignLoad(OWN, 1.0)
    for router in range(2, MAX_ROUTERS + 50):
        ledger.take(notice(router, 0, (7, 1, 0, 0), whole=True), 0.0)
    assert ledger.routers == MAX_ROUTERS
    assert ledger.of(7) == (MAX_ROUTERS, 0)
