"""No single answer, and no ten of one client, move what is believed for everybody else by more than is stated here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.beliefs.survival import Survival
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.learning.answers import ModelAnswers
from warmroute.core.types import Record, ReplicaId, RequestShape

ages = st.floats(2.6, 1e5)
shares = st.floats(0.0, 1.0)
lessons = st.lists(st.tuples(ages, shares), max_size=80)
AGES = [3.0 * 1.5**power for power in range(25)]

SURVIVAL_ONE = 1 / 16
SURVIVAL_TEN = 1 - (16 / 17) ** 10
"""Less than half, at worst: each the first lesson of an older age, which begins as the younger ones ended."""
BYTES_ONE = (1 / 6, 1 / 3)
"""Downwards and upwards, while nothing but the prior is known."""
BYTES_KNOWN = 0.05
"""After sixty answers, either way."""


def learned(seen: list[tuple[float, float]]) -> Survival:
    survival = Survival()
    for age_s, share in seen:
        survival.learn(age_s, share)
    return survival


@given(lessons, ages, shares)
def test_one_answer_hardly_changes_what_is_counted_on(
    seen: list[tuple[float, float]], age_s: float, share: float
) -> None:
    one, other = learned(seen), learned(seen)
    other.learn(age_s, share)
    for age in AGES:
        assert abs(other.share(age) - one.share(age)) <= SURVIVAL_ONE


@given(lessons, st.lists(ages, min_size=10, max_size=10), shares)
def test_ten_answers_of_one_client_leave_most_of_what_is_counted_on(
    seen: list[tuple[float, float]], asked_s: list[float], share: float
) -> None:
    one, other = learned(seen), learned(seen)
    for age_s in asked_s:
        other.learn(age_s, share)
    for age in AGES:
        assert abs(one.share(age) - other.share(age)) <= SURVIVAL_TEN


prompts = st.tuples(st.integers(1, 10_000_000), st.integers(1, 1_000_000))


@given(prompts)
def test_the_first_answer_does_not_decide_how_long_tokens_are(prompt: tuple[int, int]) -> None:
    model = ModelAnswers(4.0, 250.0)
    model.answered(*prompt, 10)
    moved = model.bytes_per_token.value / 4.0 - 1.0
    assert -BYTES_ONE[0] - 0.002 <= moved <= BYTES_ONE[1] + 0.002  # the prior has faded by a two-hundredth


@given(st.lists(prompts, min_size=10, max_size=10), st.integers(1000, 8000))
def test_ten_answers_of_one_client_move_a_known_length_of_tokens_by_less_than_half(
    odd: list[tuple[int, int]], thousandths: int
) -> None:
    true = thousandths / 1000
    model = ModelAnswers(true, 250.0)
    for _ in range(60):
        model.answered(thousandths, 1000, 10)
    known = model.bytes_per_token.value
    for prompt in odd:
        before = model.bytes_per_token.value
        model.answered(*prompt, 10)
        assert abs(model.bytes_per_token.value / before - 1.0) <= BYTES_KNOWN
    lost = abs(model.bytes_per_token.value / known - 1.0)
    assert lost <= 10 * BYTES_KNOWN
    for _ in range(10):
        model.answered(2 * thousandths, 2000, 10)
    assert abs(model.bytes_per_token.value / known - 1.0) <= 0.9 * lost + 0.02


@given(st.floats(3.0, 2000.0), st.integers(1, 10))
def test_what_others_are_predicted_to_find_is_hardly_less_after_answers_that_found_nothing(
    age_s: float, answers: int
) -> None:
    fleet = ready_fleet(1)
    replica = fleet.replicas[ReplicaId("r0")]
    replica.residency.resize(1_000_000)
    now_s = 1000.0 + age_s
    for _ in range(answers):
        shape, records = asked(fleet)
        decision = fleet.choose_and_reserve(shape, records, now_s)
        fleet.started(decision, now_s)
        fleet.settle(decision, now_s)
        fleet.confirm(decision, 0, 10, now_s)
    shape, records = asked(fleet)
    predicted = fleet.rank(shape, records, now_s).choice.predicted_tokens
    bound = SURVIVAL_ONE if answers == 1 else SURVIVAL_TEN
    assert 0.0 < 1.0 - predicted / 1024 <= bound + 16 / 1024  # whole blocks


def asked(fleet: Fleet) -> tuple[RequestShape, list[Record | None]]:
    incarnation = fleet.replicas[ReplicaId("r0")].incarnation
    assert incarnation is not None
    return RequestShape("m", [], 4200, 1050), [((incarnation, 1000.0),)] * 8
