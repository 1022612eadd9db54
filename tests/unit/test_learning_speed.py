"""One replica's estimate: what it finds, what does not move it, what it keeps over a restart."""

from __future__ import annotations

import random

import pytest

from warmroute.core.learning import speed as speed_module
from warmroute.core.learning.sample import Sample
from warmroute.core.learning.speed import ROUNDS, WINDOW, Common, SpeedEstimate, weighted_median


def sample(elapsed_s: float, tokens: float, running: int = 0, from_idle: bool = True) -> Sample:
    made = Sample(100.0, from_idle, running)
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
    times: float = 1.0,
    common: Common | None = None,
) -> None:
    """Samples of a replica with these figures; a share of them takes ten times as long, and all so many `times`."""
    rng = random.Random(seed)
    for number in range(count):
        tokens = min(rng.lognormvariate(7.5, 1.0), 30_000.0)
        running = rng.randrange(30)
        elapsed_s = base_s + tokens / rate + running * interference_s
        elapsed_s *= 1 + rng.uniform(-noise, noise)
        if rng.uniform(0, 1) < stalls:
            elapsed_s *= 10
        speed.observe(sample(elapsed_s * times, tokens, running))
        if number % every == 0:
            speed.fit(common)
    speed.fit(common)


@pytest.mark.parametrize("stalls", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("count", [3, 12, 40])
def test_more_rounds_find_the_same(count: int, stalls: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rounds in (ROUNDS, 4 * ROUNDS):
        monkeypatch.setattr(speed_module, "ROUNDS", rounds)
        speed = SpeedEstimate()
        show(speed, count, rate=8000.0, stalls=stalls)
        found.append(speed.token_s)
    assert found[0] == pytest.approx(found[1], rel=0.005)


def test_short_prompts_say_little_of_the_time_of_a_token_and_nothing_wrong() -> None:
    """A window of turns with a few new tokens each beside decoding ones, as a simulated engine of 8,000 tokens a second
    showed it: each first byte waits for the end of a step, whatever is computed. Its ms, tokens, decoding requests."""
    shown = [
        (20, 52, 4), (27, 53, 3), (23, 33, 7), (25, 69, 7), (38, 26, 20), (34, 29, 6), (25, 60, 9), (30, 79, 7),
        (25, 30, 6), (28, 60, 10), (36, 23, 8), (29, 47, 12), (23, 21, 5), (28, 45, 50), (35, 26, 6), (82, 507, 32),
        (22, 69, 15), (29, 115, 41), (29, 47, 15), (26, 39, 12), (35, 67, 15), (25, 38, 16), (28, 43, 20),
        (44, 63, 32), (37, 13, 21), (47, 223, 34), (30, 41, 32), (33, 59, 16), (464, 3610, 15), (34, 1, 45),
        (24, 20, 15), (43, 39, 21),
    ]  # fmt: skip
    speed = SpeedEstimate()
    for elapsed_ms, tokens, running in reversed(shown):
        speed.observe(sample(elapsed_ms / 1000, tokens, running))
    speed.fit(Common(1 / 8580, 0.02, 0.0004))
    assert 1 / speed.token_s == pytest.approx(8000, rel=0.4)


def test_a_prompt_that_others_computed_meanwhile_makes_no_replica_fast_before_its_answer_says_so() -> None:
    common = Common(1 / 8000, 0.01, 0.0)
    speed = SpeedEstimate()
    sent = Sample(100.0, True, 0)
    # 14,000 of 26,000 tokens are to be computed, as far as is known; it takes 0.06 s.
    sent.add(12_000, 14_000, 14_000.0, 100.06)
    assert sent.close()
    speed.observe(sent)
    speed.fit(common)
    assert speed.counted == 0.0
    # The answer is over: all but 223 were cached.
    sent.report(12_000, 14_000, -13_777.0)
    speed.fit(common)
    assert speed.counted > 0.0
    assert 1 / speed.token_s == pytest.approx(8000, rel=0.5)
    slower = Sample(200.0, True, 0)
    slower.add(12_000, 14_000, 14_000.0, 202.0)
    assert slower.close()
    counted = speed.counted
    speed.observe(slower)
    speed.fit(common)
    assert speed.counted > counted, "one that is not faster than the fellows counts at once"


@pytest.mark.parametrize("told_never", [0, WINDOW])
def test_a_fast_replica_is_believed_to_be_though_no_answer_ever_says_what_was_cached(told_never: int) -> None:
    """As vLLM does without `--enable-prompt-tokens-details`."""
    common = Common(1 / 8000, 0.01, 0.0)
    speed = SpeedEstimate()
    for number in range(WINDOW):
        sent = Sample(100.0 + number, True, 0)
        sent.add(
            1_024,
            2_000 + 50 * number,
            2_000.0 + 50 * number,
            100.01 + number + (2_000 + 50 * number) / 20_000,
        )
        assert sent.close()
        speed.observe(sent)
        speed.fit(common)
        assert speed.counted == 0.0 or number >= 7, "a few may be prompts that others have computed"
        sent.untold += number < told_never
    speed.fit(common)
    if not told_never:
        assert speed.counted == 0.0, "their answers may still tell it"
        return
    assert 1 / speed.token_s == pytest.approx(20_000, rel=0.1)


def test_nothing_seen_is_nothing_believed() -> None:
    speed = SpeedEstimate()
    speed.fit(None)
    assert (speed.count, speed.counted, speed.confidence) == (0, 0.0, 0.0)


@pytest.mark.parametrize("rate", [50.0, 2000.0, 8000.0, 32_000.0, 100_000.0])
def test_a_dozen_samples_tell_the_speed_whatever_it_is(rate: float) -> None:
    base_s, interference_s = 160 / rate, 8 / rate
    speed = SpeedEstimate()
    show(speed, 12, rate=rate, base_s=base_s, interference_s=interference_s)
    assert 1 / speed.token_s == pytest.approx(rate, rel=0.1)
    # Ten milliseconds of the machine's own noise are more of a fast engine's sample.
    assert speed.confidence > (0.5 if rate < 20_000.0 else 0.1)
    show(speed, 60, rate=rate, base_s=base_s, interference_s=interference_s, seed=2)
    assert 1 / speed.token_s == pytest.approx(rate, rel=0.05)
    assert speed.base_s == pytest.approx(base_s, rel=0.5)
    assert speed.interference_s == pytest.approx(interference_s, rel=0.5)
    assert speed.confidence > (0.7 if rate < 20_000.0 else 0.3)


def test_confidence_grows_with_what_was_seen() -> None:
    speed = SpeedEstimate()
    seen = []
    for number in range(1, 5):
        show(speed, 4, rate=8000.0, seed=number)
        seen.append(speed.confidence)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


@pytest.mark.parametrize("stalls", [0.1, 0.25])
def test_an_engine_that_stalls_tenfold_now_and_then_is_as_fast_as_without(stalls: float) -> None:
    speed = SpeedEstimate()
    show(speed, 200, rate=8000.0, stalls=stalls)
    assert 1 / speed.token_s == pytest.approx(8000.0, rel=0.1)


def test_a_replica_that_has_changed_for_good_is_followed_within_a_window() -> None:
    speed = SpeedEstimate()
    show(speed, 60, rate=8000.0)
    show(speed, WINDOW, rate=2500.0, seed=2, every=4)
    assert 1 / speed.token_s == pytest.approx(2500.0, rel=0.1)


def test_after_a_restart_the_estimate_stays_and_gives_way_sooner() -> None:
    speed = SpeedEstimate()
    show(speed, 60, rate=8000.0)
    before = speed.confidence
    speed.restarted()
    speed.fit(None)
    assert 1 / speed.token_s == pytest.approx(8000.0, rel=0.05)
    assert speed.confidence < before
    show(speed, WINDOW // 3, rate=4000.0, seed=2)
    assert 1 / speed.token_s == pytest.approx(4000.0, rel=0.15)


def test_prompts_of_one_length_leave_base_to_the_fellows_and_still_predict() -> None:
    alone, with_fellows = SpeedEstimate(), SpeedEstimate()
    common = Common(token_s=1 / 5000, base_s=0.05, interference_s=0.001)
    for _ in range(20):
        for speed, known in ((alone, None), (with_fellows, common)):
            speed.observe(sample(0.25, 1000.0))
            speed.fit(known)
            assert speed.base_s + 1000 * speed.token_s == pytest.approx(0.25, rel=0.05)
    assert with_fellows.base_s == pytest.approx(0.05, rel=0.1)
    assert with_fellows.token_s == pytest.approx(1 / 5000, rel=0.1)


def test_a_single_sample_is_believed_at_its_own_pace_where_there_are_no_fellows() -> None:
    speed = SpeedEstimate()
    speed.observe(sample(0.25, 1000.0))
    speed.fit(None)
    assert speed.base_s + 1000 * speed.token_s == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("elapsed_s", [1e-6, 500.0])
def test_every_figure_is_a_time_whatever_comes(elapsed_s: float) -> None:
    speed = SpeedEstimate()
    for number in range(3 * WINDOW):
        speed.observe(sample(elapsed_s if number % 3 else 0.25, 1000.0, running=number % 5))
        speed.fit(None)
        assert speed.token_s > 0.0
        assert min(speed.base_s, speed.interference_s) >= 0.0
        assert 0.0 <= speed.confidence <= 1.0


@pytest.mark.parametrize("times", [10.0, 0.1])
@pytest.mark.parametrize("fellows", [False, True])
def test_an_engine_ten_times_slower_or_faster_is_believed_after_fifty_samples(
    times: float, fellows: bool
) -> None:
    common = Common(1 / 8000, 0.02, 0.001) if fellows else None
    speed = SpeedEstimate()
    show(speed, 60, rate=8000.0, common=common)
    show(speed, 50, rate=8000.0, seed=2, times=times, common=common)
    assert 1 / speed.token_s == pytest.approx(8000.0 / times, rel=0.1)


@pytest.mark.parametrize("fellows", [False, True])
def test_an_engine_at_half_its_speed_is_believed_within_a_window(fellows: bool) -> None:
    common = Common(1 / 8000, 0.02, 0.001) if fellows else None
    speed = SpeedEstimate()
    show(speed, 60, rate=8000.0, common=common)
    show(speed, 32, rate=8000.0, seed=2, times=2.0, common=common)
    assert 1 / speed.token_s == pytest.approx(4000.0, rel=0.1)


@pytest.mark.parametrize("times", [1000.0, 0.001])
def test_fellows_a_thousand_times_off_do_not_hide_what_is_seen(times: float) -> None:
    speed = SpeedEstimate()
    show(speed, WINDOW, rate=8000.0, common=Common(times / 8000, 0.02 * times, 0.001 * times))
    assert 1 / speed.token_s == pytest.approx(8000.0, rel=0.1)


@pytest.mark.parametrize("times", [1 / 8, 12.5])
@pytest.mark.parametrize("count", [6, 12, 32, 100])
def test_an_engine_so_many_times_slower_is_estimated_so_many_times_slower(times: float, count: int) -> None:
    usual, scaled = SpeedEstimate(), SpeedEstimate()
    show(usual, count, rate=8000.0)
    show(scaled, count, rate=8000.0, times=times)
    assert scaled.token_s == pytest.approx(usual.token_s * times, rel=0.05)
    assert scaled.base_s + 30 * scaled.interference_s == pytest.approx(
        (usual.base_s + 30 * usual.interference_s) * times, rel=0.25
    )


def test_the_median_is_where_half_of_the_weight_is_reached() -> None:
    assert weighted_median([(5.0, 1.0)]) == 5.0
    assert weighted_median([(9.0, 1.0), (1.0, 1.0), (4.0, 1.0)]) == 4.0
    assert weighted_median([(1.0, 0.1), (2.0, 0.1), (3.0, 1.0)]) == 3.0
    assert weighted_median([(1.0, 3.0), (2.0, 1.0), (3.0, 1.0)]) == 1.0


def test_a_correction_moves_what_was_learned_already() -> None:
    speed = SpeedEstimate()
    wrong = [sample(1.0, 4000.0) for _ in range(8)]
    for one in wrong:
        speed.observe(one)
    speed.fit(None)
    assert 1 / speed.token_s == pytest.approx(4000.0, rel=0.1)
    for one in wrong:
        one.tokens += 4000.0
    speed.fit(None)
    assert 1 / speed.token_s == pytest.approx(8000.0, rel=0.1)
