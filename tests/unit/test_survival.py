"""What is learnt of how long prefixes are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.beliefs.survival import OCTAVES, Survival


def test_everything_is_counted_on_while_nothing_is_known() -> None:
    survival = Survival()
    assert survival.certain
    assert survival.share(0.0) == survival.share(1e9) == 1.0
    assert survival.lifetime_s() is None


def test_what_is_found_changes_nothing_but_the_age_up_to_which_it_is() -> None:
    survival = Survival()
    survival.learn(200.0, 1.0)
    assert survival.certain
    assert survival.found_age_s() == 256.0
    assert survival.lifetime_s() is None


def test_a_lifetime_is_learnt_from_hits_and_misses_by_age() -> None:
    survival = Survival()
    for age_s in range(1, 400):
        survival.learn(float(age_s), 1.0 if age_s < 100 else 0.0)
    assert survival.share(10.0) == 1.0
    assert survival.share(300.0) < 0.1
    lifetime_s = survival.lifetime_s()
    assert lifetime_s is not None
    assert 50 <= lifetime_s <= 200
    assert survival.found_age_s() <= 256.0


def test_an_age_of_which_nothing_is_known_is_like_the_next_younger_one() -> None:
    survival = Survival()
    for _ in range(300):
        survival.learn(30.0, 0.25)
    assert survival.share(1000.0) == pytest.approx(0.25, abs=0.001)
    assert survival.share(1.0) == 1.0
    survival.learn(1000.0, 1.0)
    # What is believed of the younger counts like 16 lessons, this one like one.
    assert survival.share(1000.0) == pytest.approx((16 * 0.25 + 1.0) / 17, abs=0.001)


def test_a_change_is_followed_and_an_outlier_forgotten() -> None:
    survival = Survival()
    for _ in range(100):
        survival.learn(20.0, 1.0)
    survival.learn(20.0, 0.0)
    assert survival.share(20.0) > 0.96
    for _ in range(160):
        survival.learn(20.0, 0.0)
    assert survival.share(20.0) < 0.01
    for _ in range(160):
        survival.learn(20.0, 1.0)
    assert survival.share(20.0) > 0.99


def test_misses_count_beside_sixteen_lessons_of_what_was_believed() -> None:
    survival = Survival()
    for share in (16 / 17, 16 / 18, 16 / 19):
        survival.learn(20.0, 0.0)
        assert survival.share(20.0) == pytest.approx(share)


def test_what_was_lost_is_believed_again_nearly_as_fast() -> None:
    survival = Survival()
    misses = hits = 0
    while survival.share(20.0) >= 0.5:
        survival.learn(20.0, 0.0)
        misses += 1
    for _ in range(200):
        survival.learn(20.0, 0.0)
    while survival.share(20.0) < 0.5:
        survival.learn(20.0, 1.0)
        hits += 1
    assert misses == 17
    assert hits == 22  # 32 ln 2


def test_an_old_age_with_few_lessons_does_not_hide_that_nothing_lives_longer() -> None:
    survival = Survival()
    for _ in range(3):
        survival.learn(200.0, 0.0)
    for _ in range(40):
        survival.learn(100.0, 0.0)
        survival.learn(20.0, 1.0)
    assert survival.gone_s() == 64.0
    assert survival.found_age_s() == 32.0
    survival.learn(1000.0, 1.0)
    assert survival.gone_s() is None
    assert survival.found_age_s() == 1024.0


def test_a_restart_is_a_clean_slate() -> None:
    survival = Survival()
    survival.learn(20.0, 0.0)
    survival.clear()
    assert survival.certain
    assert survival.share(20.0) == 1.0


@given(st.lists(st.tuples(st.floats(-10, 1e9), st.floats(0, 1)), max_size=50))
def test_shares_are_shares_whatever_comes(lessons: list[tuple[float, float]]) -> None:
    survival = Survival()
    for age_s, share in lessons:
        survival.learn(age_s, share)
        assert 0.0 <= survival.share(age_s) <= 1.0
        assert len(survival._shares) == OCTAVES
