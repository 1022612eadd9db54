"""The speed of one replica is estimated from its last samples of prefill work.

    elapsed = base + tokens / rate + running x interference + output tokens x step

`base` counts only in samples that began on an idle prefill queue, `step` only in answers that came whole. The fit is a
least-squares one over the last `WINDOW` samples. Newer samples count more, and what lies far off counts little (Cauchy
weights). So an engine that stalls tenfold now and then does not move the fit, and one that has changed for good is
followed within some twenty samples.

Where a prompt was believed to be cached in part and no answer has confirmed it, more may have been cached, since
another request may have computed it meanwhile. So such a sample that is clearly faster than the fellows does not count
until then: one alone made a replica look 34 times as fast as it was. Engines that never tell what was cached confirm
nothing: where most samples are like that though their answers are over, it is the replica that is fast.

No setting takes part. The fit starts from the median of what the samples themselves show, never from the estimate
before, so that no estimate can take all that is seen for outliers. What the fellows show (`common`) counts as one weak
observation of each figure. It decides what the samples leave open: prompts of one length say nothing about base. Where
there are no fellows, the median itself decides that.

Nothing fades with time: only newer samples replace older ones. `observe` is a few stores on the request path; `fit`
takes some 10 us and is called off it.

An answer that comes whole is a sample of its own: it holds what was ahead of its prompt, by expectation, and its own
decoding. Most of its time may be that, so the first guess gives it half, and many are needed to tell the two apart.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from warmroute.core.learning.sample import WAY_S, Sample

WINDOW: Final = 32
"""Samples that are fitted; each counts a little less than the next newer one, half as much eleven samples later."""

RELATIVE_NOISE: Final = 0.2
"""How far an honest sample may lie from what the formula says, `WAY_S` besides: what a step's grain and neighbours do
to it."""

OUTLIER: Final = 2.0
"""Times that noise at which a sample counts half."""

ROUNDS: Final = 4
"""Each round's weights come from the round before."""

_DOUBT: Final = 3.0
"""Standard error of what is believed before, as a multiple of itself; of what the fellows show of the time of a token
it is that itself, since most replicas of a model are alike."""

INTERFERENCE_TOKENS: Final = 4.0
"""Order of magnitude of a decoding request's share of a step, in prompt tokens: 30 us of work and 8,000 tokens of
context read at 3 TB/s, where a token takes 125 us."""


CONFIDENT_RATIO: Final = 0.1


def confidence(error_ratio: float) -> float:
    """Of an estimate with this relative standard error: 0 (a guess) to 1 (no doubt), one half at a tenth."""
    doubt = error_ratio / CONFIDENT_RATIO
    return 1.0 / (1.0 + doubt * doubt)


class Common:
    """What the replicas that serve the same models show together."""

    __slots__ = ("base_s", "interference_s", "token_s")

    def __init__(self, token_s: float, base_s: float, interference_s: float) -> None:
        self.token_s = token_s
        self.base_s = base_s
        self.interference_s = interference_s


class SpeedEstimate:
    """The figures of one replica; without meaning until `fit` has seen a sample."""

    __slots__ = (
        "_most",
        "_next",
        "_window",
        "base_s",
        "count",
        "counted",
        "error_ratio",
        "fresh",
        "heard_count",
        "interference_s",
        "pace_s",
        "silent",
        "token_s",
    )

    def __init__(self, most: int = WINDOW) -> None:
        """Args:
        most: How many samples are fitted.
        """
        self._most = most
        self._window: list[Sample] = []
        self._next = 0
        self.token_s = 0.0
        self.base_s = 0.0
        self.interference_s = 0.0
        self.pace_s = 0.0
        """What the median sample took for a token, of whole answers half of it: what is believed of `token_s` where the
        samples leave it open."""
        self.error_ratio = _DOUBT
        """Standard error of `token_s`, relative to it."""
        self.count = 0
        """Samples seen, ever."""
        self.counted = 0.0
        """Sum of what those in the window count, by age too."""
        self.fresh = False
        """There is something for `fit` to do."""
        self.heard_count = 0
        """`count` when the learner last looked."""
        self.silent = 0.0
        """How many samples the mean replica of its group has shown since it last showed one."""

    def observe(self, sample: Sample) -> None:
        """Take note of a closed sample. It may be corrected later, by whoever sets `fresh` then."""
        self.fresh = True
        self.count += 1
        at = self._next
        if at < len(self._window):
            self._window[at] = sample
        else:
            self._window.append(sample)
        self._next = at + 1 if at + 1 < self._most else 0

    def restarted(self) -> None:
        """The engine is another one, of which nothing is known: like its fellows, or as before where it has none."""
        self._window.clear()
        self._next = 0
        self.counted = self.silent = 0.0
        self.error_ratio = _DOUBT
        self.fresh = True

    @property
    def confidence(self) -> float:
        """0 (nothing was seen) to 1 (no doubt); one half at a standard error of a tenth."""
        return confidence(self.error_ratio) if self.counted > 0.0 else 0.0

    def _in_order(self) -> list[Sample]:
        """Newest first."""
        window = self._window
        at = self._next
        return (window[at:] + window[:at])[::-1]

    def _never_told(self, honest_s: float) -> bool:
        """Whether most samples are faster than that, and their answers have ended without a word."""
        untold = 0
        for sample in self._window:
            if sample.untold > 0 and _hides(sample, honest_s, False):
                untold += 1
        return untold >= self._most // 4 and 2 * untold > len(self._window)

    def fit(self, common: Common | None) -> None:
        """Derive the figures from the window."""
        self.fresh = False
        samples: list[Sample] = []
        weights: list[float] = []
        pace: list[tuple[float, float]] = []
        steps: list[tuple[float, float]] = []
        least_s = 1e9
        age = 1.0
        self.counted = 0.0
        honest_s = 0.0 if common is None else (1.0 - OUTLIER * RELATIVE_NOISE) * common.token_s
        never_told = self._never_told(honest_s)
        for sample in self._in_order():
            elapsed_s = sample.end_s - sample.start_s
            if sample.tokens > 0.0 and elapsed_s > 0.0 and not _hides(sample, honest_s, never_told):
                weight = sample.weight * age
                samples.append(sample)
                weights.append(weight)
                self.counted += weight
                if sample.output_tokens > 0:
                    elapsed_s *= 0.5  # before anything is known
                    steps.append((elapsed_s / sample.output_tokens, weight))
                pace.append((elapsed_s / sample.tokens, weight))
                if sample.from_idle and elapsed_s < least_s:
                    least_s = elapsed_s
            age *= 1.0 - 2.0 / self._most
        if not samples:
            return
        unit_s = weighted_median(pace)
        prior_s = unit_s if common is None else common.token_s
        prior_base_s = 0.0 if common is None else common.base_s
        base_unit_s = least_s if common is None else common.base_s
        if base_unit_s < WAY_S or base_unit_s >= 1e9:
            base_unit_s = WAY_S
        interference_unit_s = INTERFERENCE_TOKENS * unit_s
        step_unit_s = weighted_median(steps) if steps else unit_s
        prior_interference_s = interference_unit_s if common is None else common.interference_s
        token = step = 1.0
        base, interference = prior_base_s / base_unit_s, prior_interference_s / interference_unit_s
        # In these units; each prior is as doubtful as it or the unit is large.
        token_0 = prior_s / unit_s
        base_0, interference_0 = base, interference
        doubt = (_DOUBT if common is None else 1.0) * (token_0 if token_0 > 1.0 else 1.0)
        token_prior = 1.0 / (doubt * doubt)
        base_prior = 1.0 / (_DOUBT * _DOUBT)
        doubt = _DOUBT * (interference_0 if interference_0 > 1.0 else 1.0)
        interference_prior = 1.0 / (doubt * doubt)
        error = _DOUBT
        for _ in range(ROUNDS):
            misses = counted = 0.0
            bb, bt, bi, by = base_prior, 0.0, 0.0, base_prior * base_0
            tt, ti, ty = token_prior, 0.0, token_prior * token_0
            ii, iy = interference_prior, interference_prior * interference_0
            ss, sb, si, st, sy = base_prior, 0.0, 0.0, 0.0, base_prior
            for index in range(len(samples)):
                sample = samples[index]
                xb = base_unit_s if sample.from_idle else 0.0
                xt = sample.tokens * unit_s
                xi = sample.running * interference_unit_s
                xs = sample.output_tokens * step_unit_s
                y = sample.end_s - sample.start_s
                expected = base * xb + token * xt + interference * xi + step * xs
                noise = WAY_S + RELATIVE_NOISE * expected
                off = (y - expected) / (noise * OUTLIER)
                weight = weights[index] / (1.0 + off * off)
                counted += weight
                misses += weight * off * off
                weight /= noise * noise
                bb += weight * xb * xb
                bt += weight * xb * xt
                bi += weight * xb * xi
                by += weight * xb * y
                tt += weight * xt * xt
                ti += weight * xt * xi
                ty += weight * xt * y
                ii += weight * xi * xi
                iy += weight * xi * y
                if xs > 0.0:
                    ss += weight * xs * xs
                    sb += weight * xs * xb
                    si += weight * xs * xi
                    st += weight * xs * xt
                    sy += weight * xs * y
            # The step is eliminated first, and is what the others leave.
            b_s, i_s, t_s = sb / ss, si / ss, st / ss
            base, interference, token, known = _solved(
                bb - b_s * sb,
                bi - b_s * si,
                bt - b_s * st,
                ii - i_s * si,
                ti - i_s * st,
                tt - t_s * st,
                by - b_s * sy,
                iy - i_s * sy,
                ty - t_s * sy,
                token_0,
            )
            step = (sy - sb * base - si * interference - st * token) / ss
            if step < 0.0:
                step = 0.0
                base, interference, token, known = _solved(bb, bi, bt, ii, ti, tt, by, iy, ty, token_0)
            # Beside one that lies as far off as the noise says.
            error = sqrt((1.0 + misses * OUTLIER * OUTLIER) / (1.0 + counted)) / (sqrt(known) * token)
        self.base_s = base * base_unit_s
        self.token_s = token * unit_s
        self.interference_s = interference * interference_unit_s
        self.pace_s = unit_s
        self.error_ratio = error


def _hides(sample: Sample, honest_s: float, never_told: bool) -> bool:
    """Whether it may be that more was cached than is known of its prompts: of those whose answers may still tell it,
    where the engine never does."""
    doubtful = sample.unconfirmed - sample.untold if never_told else sample.unconfirmed
    return doubtful > 0 and sample.end_s - sample.start_s < sample.tokens * honest_s


def _solved(
    bb: float,
    bi: float,
    bt: float,
    ii: float,
    ti: float,
    tt: float,
    by: float,
    iy: float,
    ty: float,
    token_0: float,
) -> tuple[float, float, float, float]:
    """Base, interference and token of least squares, none below zero, and how sharply the token is known.

    What would be below zero is left out, and the others are found without it. Where it was only set to zero, they kept
    what had made up for it: samples of short prompts alone made a token seem eight times as slow as it was.

    Args:
        bb: And all to `ty`: the normal equations, a letter for each figure, `y` for what was seen.
        token_0: What is believed of the token where the samples say nothing of it.
    """
    # Each figure is eliminated in turn: base, interference; the token is what is left.
    i_i, i_t, i_y = max(ii - bi * bi / bb, 1e-12), ti - bi * bt / bb, iy - bi * by / bb
    t_t, t_y = tt - bt * bt / bb, ty - bt * by / bb
    known = max(t_t - i_t * i_t / i_i, 1e-12)
    token = (t_y - i_t * i_y / i_i) / known
    token = token_0 if token <= 0.0 else token
    interference = (i_y - i_t * token) / i_i
    if interference >= 0.0:
        base = (by - bi * interference - bt * token) / bb
        if base >= 0.0:
            return base, interference, token, known
        known = max(tt - ti * ti / ii, 1e-12)
        token = (ty - ti * iy / ii) / known
        token = token_0 if token <= 0.0 else token
        interference = (iy - ti * token) / ii
        if interference >= 0.0:
            return 0.0, interference, token, known
    else:
        known = max(t_t, 1e-12)
        token = t_y / known
        token = token_0 if token <= 0.0 else token
        base = (by - bt * token) / bb
        if base >= 0.0:
            return base, 0.0, token, known
    token = ty / tt
    return 0.0, 0.0, token_0 if token <= 0.0 else token, tt


def weighted_median(pairs: list[tuple[float, float]]) -> float:
    """The value at which half of the weight is reached. `pairs` of value and weight, at least one; sorted in place."""
    pairs.sort()
    half = 0.0
    for _, weight in pairs:
        half += 0.5 * weight
    for value, weight in pairs:
        half -= weight
        if half <= 0.0:
            return value
    return pairs[-1][0]
