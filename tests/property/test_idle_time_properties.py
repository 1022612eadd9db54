"""The registry's idle time: within its bounds whatever comes, and never shorter where caches keep prefixes longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.beliefs.idle_time import IdleTime
from warmroute.core.beliefs.survival import Survival
from warmroute.core.fleet.fleet import Fleet

ages = st.floats(0.0, 20_000.0)
lessons = st.lists(st.tuples(st.integers(0, 2), ages, st.floats(0.0, 1.0)), max_size=120)
bounds = st.tuples(st.floats(0.1, 5000.0), st.floats(1.0, 20.0))


def taught(asked: list[tuple[int, float, float]]) -> Fleet:
    fleet = ready_fleet(3)
    replicas = list(fleet.replicas.values())
    for replica, age_s, share in asked:
        replicas[replica].survival.learn(age_s, share)
    return fleet


@given(lessons, bounds, st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4))
def test_the_time_is_within_its_bounds(
    asked: list[tuple[int, float, float]], bound: tuple[float, float], times: list[float]
) -> None:
    least_s, ratio = bound
    most_s = least_s * ratio
    idle_time = IdleTime(least_s, most_s)
    fleet = taught(asked)
    for now_s in times:
        assert least_s <= idle_time.idle_s(fleet.replicas.values(), now_s) <= most_s


@given(
    st.lists(st.tuples(st.integers(0, 2), ages), max_size=120),
    st.tuples(ages, ages, ages),
    st.tuples(ages, ages, ages),
)
def test_the_longer_caches_keep_prefixes_the_longer_records_are_kept(
    asked: list[tuple[int, float]], kept: tuple[float, float, float], more: tuple[float, float, float]
) -> None:
    def idle_s(kept_s: list[float]) -> float:
        shown = [(replica, age_s, float(age_s <= kept_s[replica])) for replica, age_s in asked]
        return IdleTime(20.0, 1e6).idle_s(taught(shown).replicas.values(), 0.0)

    longer = [one + other for one, other in zip(kept, more, strict=True)]
    assert idle_s(list(kept)) <= idle_s(longer)


@given(st.lists(st.tuples(ages, st.floats(0.0, 1.0)), max_size=60))
def test_nothing_is_gone_that_is_found_and_nothing_is_gone_without_misses(
    taught: list[tuple[float, float]],
) -> None:
    survival = Survival()
    for age_s, share in taught:
        survival.learn(age_s, share)
    gone_s = survival.gone_s()
    if gone_s is not None:
        assert gone_s >= survival.found_age_s()
        assert survival.missed > 0
    assert survival.missed <= len(taught)
