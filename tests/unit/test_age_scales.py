"""The ends of the scales of ages decide nothing: scales that go on further both ways give the same figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.beliefs import returns as returns_module
from warmroute.core.beliefs import survival as survival_module
from warmroute.core.beliefs.returns import BUCKETS, LEAST_AGE_S, Returns
from warmroute.core.beliefs.survival import OCTAVES, OCTAVES_PER_S, Survival

AGES = [0.02 * 1.7**power for power in range(24)]
"""From a step of the fastest engine to an hour: nobody's cache keeps what is older."""
lessons = st.lists(st.tuples(st.sampled_from(AGES), st.floats(0.0, 1.0)), max_size=80)


@given(lessons)
def test_what_is_found_is_the_same_on_a_longer_scale(seen: list[tuple[float, float]]) -> None:
    figures = []
    for further in (0, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(survival_module, "OCTAVES", OCTAVES + 2 * further)
            patch.setattr(survival_module, "OCTAVES_PER_S", OCTAVES_PER_S << further)
            survival = Survival()
            for age_s, share in seen:
                survival.learn(age_s, share)
            shares = [survival.share(age_s) for age_s in AGES]
            figures.append((shares, survival.lifetime_s(), survival.gone_s(), survival.found_age_s()))
    assert figures[0] == figures[1]


@given(lessons)
def test_what_comes_back_is_the_same_on_a_longer_scale(seen: list[tuple[float, float]]) -> None:
    figures = []
    for further in (0, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(returns_module, "BUCKETS", BUCKETS + 4 * further)
            patch.setattr(returns_module, "LEAST_AGE_S", LEAST_AGE_S / (1 << further))
            returns = Returns()
            for age_s, share in seen:
                returns.used(1000)
                returns.returned(int(1000 * share), age_s)
            figures.append([returns.ratio(age_s) for age_s in AGES])
    assert figures[0] == pytest.approx(figures[1])
