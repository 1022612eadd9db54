"""How fast one replica is, from its last stretches of prefill work.

    elapsed = base + tokens / rate + running x interference

Base counts only where a stretch began on an idle prefill queue. The fit is a least-squares one over the last `WINDOW`
stretches, weighted so that what lies far off counts little (Cauchy): an engine that stalls tenfold now and then does
not move it, one that has changed for good has by the time half of the window is new. The prior takes part as one weak
observation of each figure, which decides what the stretches leave open (prompts of one length say nothing about base).

Nothing fades with time: only newer stretches replace older ones. Cost: `observe` is a few stores on the request path;
`fit` is some 10 us and is called off it.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from router.core.learning.stretch import Stretch

WINDOW: Final = 32

RELATIVE_NOISE: Final = 0.2
NOISE_S: Final = 0.01
"""How far an honest stretch may lie from what the formula says: what a step's grain and neighbours do to it."""

OUTLIER: Final = 2.0
"""Times that noise at which a stretch counts half."""

CALM_STRETCHES: Final = 4.0
"""So many that lie as far off as the noise above says are assumed, before errors are taken for smaller or larger."""

ROUNDS: Final = 4
"""Each round's weights come from the round before; the next fit starts where this one ended."""

_BASE_DOUBT: Final = 2.0
_TOKEN_DOUBT: Final = 3.0
_INTERFERENCE_DOUBT: Final = 4.0
"""Standard error of the prior, as a multiple of itself."""

LEAST_BASE_S: Final = 0.005
"""Unit in which base is estimated where the prior's is less."""

PRIOR_INTERFERENCE_S: Final = 0.0005
"""Per decoding request: 30 us of work and 8,000 tokens of context read at 3 TB/s."""

RESTART_WEIGHT: Final = 0.25
"""What a stretch before the engine's restart counts: most come back as they were, some on other hardware."""


CONFIDENT_RATIO: Final = 0.1


def confidence(error_ratio: float) -> float:
    """Of an estimate with this relative standard error: 0 (a guess) to 1 (no doubt), one half at a tenth."""
    doubt = error_ratio / CONFIDENT_RATIO
    return 1.0 / (1.0 + doubt * doubt)


class SpeedEstimate:
    """The figures of one replica. `count` is 0 and they are the prior's until `fit` has seen a stretch."""

    __slots__ = (
        "_base_unit_s",
        "_most",
        "_next",
        "_token_unit_s",
        "_window",
        "base_s",
        "count",
        "counted",
        "error_ratio",
        "fresh",
        "interference_s",
        "token_s",
    )

    def __init__(self, token_s: float, base_s: float, most: float) -> None:
        """Args:
        token_s: Prior of 1 / rate.
        base_s: Prior of base.
        most: How many times larger or smaller than the prior a figure may become.
        """
        self._token_unit_s = token_s
        self._base_unit_s = base_s if base_s > LEAST_BASE_S else LEAST_BASE_S
        self._most = most
        self._window: list[Stretch] = []
        self._next = 0
        self.token_s = token_s
        self.base_s = base_s
        self.interference_s = PRIOR_INTERFERENCE_S
        self.error_ratio = _TOKEN_DOUBT
        """Standard error of `token_s`, relative to it."""
        self.count = 0
        """Stretches seen, ever."""
        self.counted = 0.0
        """Sum of what those in the window count."""
        self.fresh = False
        """There is something for `fit` to do."""

    def observe(self, stretch: Stretch) -> None:
        """Take note of a closed stretch. It may be corrected later, by whoever sets `fresh` then."""
        self.fresh = True
        self.count += 1
        at = self._next
        if at < len(self._window):
            self._window[at] = stretch
        else:
            self._window.append(stretch)
        self._next = at + 1 if at + 1 < WINDOW else 0

    def restarted(self) -> None:
        """The engine is another one: what was seen counts less."""
        for stretch in self._window:
            stretch.share *= RESTART_WEIGHT
        self.fresh = True

    @property
    def confidence(self) -> float:
        """0 (the prior) to 1 (no doubt); one half at a standard error of a tenth."""
        return confidence(self.error_ratio) if self.count else 0.0

    def fit(self) -> None:
        """Derive the figures from the window."""
        self.fresh = False
        base_unit_s, token_unit_s, interference_unit_s = (
            self._base_unit_s,
            self._token_unit_s,
            PRIOR_INTERFERENCE_S,
        )
        most = self._most
        least = 1.0 / most
        base = self.base_s / base_unit_s
        token = self.token_s / token_unit_s
        interference = self.interference_s / interference_unit_s
        base_prior = 1.0 / (_BASE_DOUBT * _BASE_DOUBT)
        token_prior = 1.0 / (_TOKEN_DOUBT * _TOKEN_DOUBT)
        interference_prior = 1.0 / (_INTERFERENCE_DOUBT * _INTERFERENCE_DOUBT)
        error = _TOKEN_DOUBT
        for _ in range(ROUNDS):
            misses = counted = 0.0
            bb, bt, bi, by = base_prior, 0.0, 0.0, base_prior
            tt, ti, ty = token_prior, 0.0, token_prior
            ii, iy = interference_prior, interference_prior
            for stretch in self._window:
                xb = base_unit_s if stretch.from_idle else 0.0
                xt = stretch.tokens * token_unit_s
                xi = stretch.running * interference_unit_s
                y = stretch.end_s - stretch.start_s
                expected = base * xb + token * xt + interference * xi
                noise = NOISE_S + RELATIVE_NOISE * expected
                off = (y - expected) / (noise * OUTLIER)
                weight = stretch.weight / (1.0 + off * off)
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
            # Cholesky of the symmetric matrix, in the order base, interference, token.
            l_bb = sqrt(bb)
            l_ib = bi / l_bb
            l_tb = bt / l_bb
            l_ii = sqrt(max(ii - l_ib * l_ib, 1e-12))
            l_ti = (ti - l_tb * l_ib) / l_ii
            l_tt = sqrt(max(tt - l_tb * l_tb - l_ti * l_ti, 1e-12))
            z_b = by / l_bb
            z_i = (iy - l_ib * z_b) / l_ii
            z_t = (ty - l_tb * z_b - l_ti * z_i) / l_tt
            token = z_t / l_tt
            token = least if token < least else most if token > most else token
            interference = (z_i - l_ti * token) / l_ii
            interference = 0.0 if interference < 0.0 else most if interference > most else interference
            base = (z_b - l_ib * interference - l_tb * token) / l_bb
            base = 0.0 if base < 0.0 else most if base > most else base
            missed = (CALM_STRETCHES + misses * OUTLIER * OUTLIER) / (CALM_STRETCHES + counted)
            error = sqrt(missed) / (l_tt * token)
        self.counted = sum([stretch.weight for stretch in self._window])
        self.base_s = base * base_unit_s
        self.token_s = token * token_unit_s
        self.interference_s = interference * interference_unit_s
        self.error_ratio = error if error < _TOKEN_DOUBT else _TOKEN_DOUBT
