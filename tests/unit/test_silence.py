"""How long a replica may be silent."""

from __future__ import annotations

from math import inf

import pytest

from warmroute.core.health.silence import (
    FADE,
    MOST_RATIO,
    UNKNOWN,
    Patience,
    SilenceParameters,
    mean_of,
    plain_allowed_s,
    plain_usual_s,
)

PARAMETERS = SilenceParameters(factor=4.0, floor_s=2.0, ceiling_s=60.0)


@pytest.mark.parametrize(
    ("expected_s", "allowed_s"),
    [(0.1, 2.0), (0.5, 2.0), (1.0, 4.0), (10.0, 40.0), (30.0, 60.0), (UNKNOWN, 60.0)],
)
def test_a_multiple_of_what_was_predicted_between_a_floor_and_a_ceiling(
    expected_s: float, allowed_s: float
) -> None:
    assert Patience().allowed_s(expected_s, PARAMETERS) == allowed_s


@pytest.mark.parametrize(
    ("expected_s", "surprise_s", "allowed_s"),
    [
        (0.1, 0.5, 2.0),
        (0.1, 3.9, 6.0),
        (1.0, 1.0, 4.0),
        (1.0, 5.0, 9.0),
        (0.1, 100.0, 60.0),
        (UNKNOWN, 5.0, 60.0),
    ],
)
def test_what_is_cached_no_more_may_take_half_as_long_again_as_a_cold_prompt(
    expected_s: float, surprise_s: float, allowed_s: float
) -> None:
    assert Patience().allowed_s(expected_s, PARAMETERS, surprise_s=surprise_s) == pytest.approx(allowed_s)


def test_a_replica_that_is_always_later_than_predicted_is_waited_for_longer_for_a_while() -> None:
    patience = Patience()
    patience.answered(1.0, 3.0)
    patience.answered(1.0, 0.5)
    assert patience.allowed_s(1.0, PARAMETERS) == 12.0
    for _ in range(round(1.0 / FADE)):
        patience.swept(0.0)
    assert 4.0 < patience.allowed_s(1.0, PARAMETERS) < 8.0
    patience.answered(0.001, 1e6)
    assert patience.ratio == MOST_RATIO


def test_a_suspect_that_is_heard_of_again_was_suspected_too_soon() -> None:
    patience = Patience()
    patience.suspect(100.0)
    patience.swept(99.0)
    assert patience.suspected_s == 100.0
    assert patience.ratio == 1.0
    patience.swept(101.0)
    assert patience.suspected_s == 0.0
    assert patience.ratio == 2.0
    patience.swept(102.0)
    assert patience.ratio < 2.0, "once"


def test_whole_answers_are_waited_for_by_the_longest_of_late() -> None:
    assert plain_allowed_s(0.0, PARAMETERS) == inf, "nothing is known yet"
    assert plain_allowed_s(0.1, PARAMETERS) == 2.0
    assert plain_allowed_s(100.0, PARAMETERS) == 400.0, "how long an answer gets is not known before"


def test_what_answers_usually_take_is_told_by_their_mean_where_one_took_much_longer() -> None:
    assert plain_usual_s(0.0, 0.0, PARAMETERS) == inf
    assert plain_usual_s(10.0, 9.0, PARAMETERS) == 10.0
    assert plain_usual_s(300.0, 6.0, PARAMETERS) == 24.0
    assert plain_usual_s(300.0, 0.1, PARAMETERS) == 2.0
    assert plain_usual_s(10.0, 9.0, SilenceParameters(factor=0.0)) == inf
    mean_s = mean_of(0.0, 3.0)
    assert mean_s == 3.0
    for _ in range(1000):
        mean_s = mean_of(mean_s, 5.0)
    assert mean_s == pytest.approx(5.0)


def test_a_suspect_and_a_replica_on_trial_have_half_of_the_floor() -> None:
    patience = Patience()
    assert patience.allowed_s(0.1, PARAMETERS, doubtful=True) == 1.0
    assert patience.allowed_s(1.0, PARAMETERS, doubtful=True) == 4.0, "the prediction holds all the same"
    patience.suspect(100.0)
    assert patience.allowed_s(0.1, PARAMETERS) == 1.0


def test_a_factor_of_zero_waits_for_ever() -> None:
    never = SilenceParameters(factor=0.0)
    assert Patience().allowed_s(1.0, never) == inf
    assert plain_allowed_s(1.0, never) == inf
