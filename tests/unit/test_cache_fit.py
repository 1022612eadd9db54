"""What is learnt of how many of the counted tokens fit into a cache."""

from __future__ import annotations

import pytest

from router.core.cache_fit import FIT_RATIO, LEAST_FIT_RATIO, MOST_FIT_RATIO, CacheFit


def test_answers_teach_how_much_fits() -> None:
    fit = CacheFit()
    for _ in range(200):
        fit.learn(there=True, doubtful=False, age_s=10.0)
        fit.learn(there=False, doubtful=False, age_s=60.0)
    assert fit.ratio == LEAST_FIT_RATIO, "told ten times too much"
    for _ in range(1000):
        fit.found()
    assert fit.ratio == MOST_FIT_RATIO


def test_of_what_is_in_doubt_a_twentieth_may_be_missing() -> None:
    fit = CacheFit()
    for _ in range(100):
        for _ in range(19):
            fit.learn(there=True, doubtful=True, age_s=50.0)
        fit.learn(there=False, doubtful=True, age_s=50.0)
    assert fit.ratio == pytest.approx(FIT_RATIO, rel=0.05)


@pytest.mark.parametrize("every", [3, 10])
def test_prompts_that_are_missing_whatever_their_age_do_not_make_a_cache_small(every: int) -> None:
    fit = CacheFit()
    for number in range(3000):
        age_s = 5.0 + number * 7 % 60
        fit.learn(there=number % every != 0, doubtful=age_s > 52.0, age_s=age_s)
    assert fit.ratio > 0.6 * FIT_RATIO
