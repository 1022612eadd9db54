"""One replica's estimate: what it finds, what does not move it, what it keeps over a restart."""

from __future__ import annotations

import random

import pytest

from router.core.learning.speed import PRIOR_INTERFERENCE_S, WINDOW, SpeedEstimate
from router.core.learning.stretch import Stretch

PRIOR_TOKEN_S = 1 / 8000
PRIOR_BASE_S = 0.03


def estimate(most: float = 16.0) -> SpeedEstimate:
    return SpeedEstimate(PRIOR_TOKEN_S, PRIOR_BASE_S, most)


def stretch(elapsed_s: float, tokens: float, running: int = 0, from_idle: bool = True) -> Stretch:
    made = Stretch(100.0, from_idle, running)
    made.add(0, int(tokens), tokens, 100.0 + elapsed_s)
    assert made.close()
    return made


def show(
    speed: SpeedEstimate,
    count: int,
    *,
    rate: float,
    base_s: float = 0.02,
    interference_s: float = 0.001,
    noise: float = 0.05,
    stalls: float = 0.0,
    seed: int = 1,
    every: int = 1,
) -> None:
    """Stretches of a replica with these figures; a share of them takes ten times as long."""
    rng = random.Random(seed)
    for number in range(count):
        tokens = min(rng.lognormvariate(7.5, 1.0), 30_000.0)
        running = rng.randrange(30)
        elapsed_s = base_s + tokens / rate + running * interference_s
        elapsed_s *= 1 + rng.uniform(-noise, noise)
        if rng.uniform(0, 1) < stalls:
            elapsed_s *= 10
        speed.observe(stretch(elapsed_s, tokens, running))
        if number % every == 0:
            speed.fit()
    speed.fit()


def test_nothing_seen_is_the_prior_without_confidence() -> None:
    speed = estimate()
    assert (speed.token_s, speed.base_s) == (PRIOR_TOKEN_S, PRIOR_BASE_S)
    assert speed.interference_s == PRIOR_INTERFERENCE_S
    assert speed.confidence == 0.0


@pytest.mark.parametrize("rate", [2000.0, 8000.0, 32_000.0])
def test_a_dozen_stretches_tell_the_speed_whatever_the_prior(rate: float) -> None:
    speed = estimate()
    show(speed, 12, rate=rate)
    assert 1 / speed.token_s == pytest.approx(rate, rel=0.1)
    assert speed.confidence > 0.5
    show(speed, 60, rate=rate, seed=2)
    assert 1 / speed.token_s == pytest.approx(rate, rel=0.05)
    assert speed.base_s == pytest.approx(0.02, abs=0.01)
    assert speed.interference_s == pytest.approx(0.001, abs=0.0005)
    assert speed.confidence > 0.7


def test_confidence_grows_with_what_was_seen() -> None:
    speed = estimate()
    seen = []
    for number in range(1, 5):
        show(speed, 4, rate=8000.0, seed=number)
        seen.append(speed.confidence)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


@pytest.mark.parametrize("stalls", [0.1, 0.25])
def test_an_engine_that_stalls_tenfold_now_and_then_is_as_fast_as_without(stalls: float) -> None:
    speed = estimate()
    show(speed, 200, rate=8000.0, stalls=stalls)
    assert 1 / speed.token_s == pytest.approx(8000.0, rel=0.1)


def test_a_replica_that_has_changed_for_good_is_followed_within_a_window() -> None:
    speed = estimate()
    show(speed, 60, rate=8000.0)
    show(speed, WINDOW, rate=2500.0, seed=2, every=4)
    assert 1 / speed.token_s == pytest.approx(2500.0, rel=0.1)


def test_after_a_restart_the_estimate_stays_and_gives_way_sooner() -> None:
    speed = estimate()
    show(speed, 60, rate=8000.0)
    before = speed.confidence
    speed.restarted()
    speed.fit()
    assert 1 / speed.token_s == pytest.approx(8000.0, rel=0.05)
    assert speed.confidence < before
    show(speed, WINDOW // 3, rate=4000.0, seed=2)
    assert 1 / speed.token_s == pytest.approx(4000.0, rel=0.15)


def test_prompts_of_one_length_leave_base_to_the_prior_and_still_predict() -> None:
    speed = estimate()
    for _ in range(20):
        speed.observe(stretch(0.25, 1000.0))
        speed.fit()
    assert speed.base_s + 1000 * speed.token_s == pytest.approx(0.25, rel=0.05)


def test_no_figure_leaves_its_bounds() -> None:
    speed = estimate(most=4.0)
    for elapsed_s in (1e-6, 500.0):
        for _ in range(WINDOW):
            speed.observe(stretch(elapsed_s, 1000.0, running=3))
            speed.fit()
            assert PRIOR_TOKEN_S / 4 * 0.999 <= speed.token_s <= PRIOR_TOKEN_S * 4.001
            assert 0 <= speed.base_s <= 4.001 * PRIOR_BASE_S
            assert 0 <= speed.interference_s <= 4.001 * PRIOR_INTERFERENCE_S


def test_a_correction_moves_what_was_learned_already() -> None:
    speed = estimate()
    wrong = [stretch(1.0, 4000.0) for _ in range(8)]
    for one in wrong:
        speed.observe(one)
    speed.fit()
    assert 1 / speed.token_s == pytest.approx(4000.0, rel=0.1)
    for one in wrong:
        one.tokens += 4000.0
    speed.fit()
    assert 1 / speed.token_s == pytest.approx(8000.0, rel=0.1)
