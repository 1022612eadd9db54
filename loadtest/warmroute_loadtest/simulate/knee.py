"""The knee is the highest rate that a policy carries with at least 90 % of requests within their TTFT target.

This module finds it by bisection on the logarithm of the rate; goodput need not fall monotonically, so the answer is a
crossing, exact to `PRECISION_RATIO`. The target is `metrics`'.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.metrics import figures
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.workload import Workload

GOODPUT_RATIO = 0.9
PRECISION_RATIO = 0.05


def knee_rate(
    workload: Workload,
    fleet: FleetConfig,
    make_chooser: Callable[[Site], Chooser],
    start_rate: float | None = None,
) -> float:
    """Find the knee, in requests a second, in the unit of `Workload.rate`.

    The result is 0 where even a thousandth of the start rate is too much. It is infinite where a million times the
    start rate is not (traces of days start far below their knee); this happens with few sessions, which then all start
    at once.
    """

    def holds(rate: float) -> bool:
        run = simulate(workload.at_rate(rate), fleet, make_chooser)
        return figures(run).goodput_ratio >= GOODPUT_RATIO

    rate = start_rate or workload.rate or 1.0
    least = rate / 1000.0
    most = rate * 1e6
    if holds(rate):
        low = rate
        while True:
            rate *= 1.6
            if rate > most:
                return inf
            if not holds(rate):
                break
            low = rate
        high = rate
    else:
        high = rate
        while True:
            rate /= 1.6
            if rate < least:
                return 0.0
            if holds(rate):
                break
            high = rate
        low = rate
    while high / low > 1.0 + PRECISION_RATIO:
        middle = sqrt(low * high)
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
