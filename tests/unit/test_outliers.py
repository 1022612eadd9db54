"""Who is suspect of its error answers, and for how long."""

from __future__ import annotations

import pytest

from warmroute.core.health.outliers import PROBATION, ErrorRate


def after(answers: str) -> ErrorRate:
    """`g`ood and `b`ad answers, in order."""
    rate = ErrorRate()
    for answer in answers:
        if answer == "g":
            rate.good()
        else:
            rate.bad()
    return rate


def test_one_or_two_errors_make_nobody_suspect() -> None:
    assert not after("b").suspect(0.0)
    assert not after("bb").suspect(0.0)
    assert not after("gbgb").suspect(0.0)


def test_three_errors_in_a_row_do_however_well_it_did_before() -> None:
    assert after("bbb").suspect(0.0)
    assert after("g" * 1000 + "bbb").suspect(0.0)


def test_nobody_is_suspect_of_what_its_fellows_answer_too() -> None:
    assert not after("bbb").suspect(1.0)
    assert not after("gb" * 50).suspect(0.5)


def test_a_share_of_errors_that_its_fellows_have_not_makes_suspect() -> None:
    assert after("ggb" * 30).suspect(0.02)
    assert not after(("g" * 30 + "b") * 10).suspect(0.02)


def test_the_ratio_is_that_of_recent_answers() -> None:
    assert after("").ratio == 0.0
    assert after("gggb").ratio == pytest.approx(0.25, abs=0.01)
    assert after("b" * 500 + "g" * 500).ratio < 0.01


def test_old_errors_fade() -> None:
    rate = after("b" * 20 + "g" * 300)
    assert rate.errors < 0.5
    assert not rate.suspect(0.0)


def test_who_was_convicted_is_suspect_until_it_has_answered_often() -> None:
    rate = after("bbb")
    rate.convict()
    for _ in range(PROBATION):
        assert rate.suspect(0.9)
        rate.good()
    assert not rate.suspect(0.9)


def test_an_acquittal_leaves_nothing_behind() -> None:
    rate = after("g" * 20 + "bbb")
    rate.acquit(0.0)
    assert (rate.in_row, rate.errors) == (0, 0.0)
    rate.bad()
    assert not rate.suspect(0.0)


def test_another_engine_starts_with_a_clean_slate() -> None:
    rate = after("bbbb")
    rate.convict()
    rate.clear()
    assert (rate.answers, rate.errors, rate.in_row, rate.probation) == (0.0, 0.0, 0, 0)
