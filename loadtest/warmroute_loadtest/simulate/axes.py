"""The axes are what a routing rule must hold on: a designed set of cells, with one thing changed at a time.

This module decides which cells those are, which workloads a rule may be chosen on and which are reported apart, and
which rivals are worth their running time in which cell. Every result is compared with `KNEE_POLICY` in the same case,
and that ratio with the one in the plain case: 8 replicas of 400,000 tokens, right priors, known cache sizes, one
router. A rate is a share of the plain fleet's knee, times the case's speed over the plain fleet's. This module runs
nothing: `grid` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from warmroute_loadtest.simulate.cells import KNEE_POLICY, Cell, Outcome, geometric_mean, knee_key
from warmroute_loadtest.simulate.metrics import Figures
from warmroute_loadtest.simulate.simulation import FleetConfig, SpeedChange
from warmroute_loadtest.simulate.sources import Source, of_seed

CACHE_TOKENS = 400_000
LOW, HIGH = 0.6, 0.9
"""The two loads, as shares of the knee."""

CHOSEN_ON = ("conversation", "agent-loops", "hot-keys", "mixed")
REPORTED_APART = ("ragpulse", "multi-turn", "no-reuse", "lmcache")
"""The split of the cross-validation: what was chosen by looking at the first four workloads is judged by the other
four, and the other way round. Each half has a trace, prompts that all share, sessions, and bursts or prompts that
nobody shares."""

RIVALS_OF: dict[str, tuple[str, ...]] = {
    "ragpulse": ("preble",),
    "agent-loops": ("llm-d", "sglang"),
    "hot-keys": ("llm-d", "preble"),
    "no-reuse": ("affinity-gate",),
    "mixed": ("llm-d",),
}
"""The policies that, besides `KNEE_POLICY`, were ever the best on a workload in the plain case."""

SPEEDS = {"1,000/s": 0.125, "100,000/s": 12.5}
PRIORS = {"1/100": 0.01, "x100": 100.0}
_SESSIONS = ("conversation", "agent-loops", "multi-turn", "mixed")


def _as_it_is(fleet: FleetConfig, source: Source) -> FleetConfig:
    return fleet


@dataclass(frozen=True, slots=True)
class Case:
    """One value of one axis, on some workloads."""

    name: str
    workloads: tuple[str, ...]
    change: Callable[[FleetConfig, Source], FleetConfig] = _as_it_is
    shares: tuple[float, ...] = (HIGH,)
    speed_ratio: float = 1.0
    """The speed of the case's whole fleet over that of the plain fleet."""
    requests_ratio: float = 1.0
    routers: int = 1
    spread: bool = False
    """Whether requests of one moment are moved apart in time. A trace's coarse clock makes bursts that nobody ever
    sent, and within such a burst routers could not have heard of each other."""
    whole_ratio: float = 0.0
    """Share of the requests whose answers come whole."""
    more_rivals: bool = False
    """Whether the rivals of `RIVALS_OF` are played."""


PLAIN = Case("plain", (*CHOSEN_ON, *REPORTED_APART), shares=(LOW, HIGH), more_rivals=True)


def _prior_cases() -> list[Case]:
    return [
        Case(
            f"prior {name}",
            ("conversation", "agent-loops", "multi-turn", "lmcache"),
            lambda fleet, _, ratio=ratio: replace(fleet, prior_ratio=ratio),  # type: ignore[misc]
        )
        for name, ratio in PRIORS.items()
    ]


def cases() -> list[Case]:
    """Return the plain case, then one case for each other value of each axis: 60 cells in all."""
    made = [PLAIN]
    for name, speed in SPEEDS.items():
        made.append(
            Case(
                f"speed {name}",
                ("conversation", "agent-loops", "hot-keys", "multi-turn"),
                lambda fleet, _, speed=speed: replace(fleet, speed=speed),  # type: ignore[misc]
            )
        )
    made += _prior_cases()
    few = ("conversation", "agent-loops", "hot-keys", "multi-turn")
    # The case of 32 replicas has workloads whose requests come by the clock, since no generator makes as many sessions
    # at once as 32 replicas could serve.
    many = ("conversation", "ragpulse", "hot-keys", "no-reuse")
    made += [
        # Sessions are spread unevenly over replicas: at a higher load, caches of only 2 replicas hold less than is in
        # use, under any rule.
        Case(
            "replicas 2", few, lambda fleet, _: replace(fleet, replicas=2), shares=(LOW,), speed_ratio=2 / 8
        ),
        Case(
            "replicas 32",
            many,
            lambda fleet, _: replace(fleet, replicas=32),
            speed_ratio=32 / 8,
            requests_ratio=2.0,
        ),
        Case("routers 4", _SESSIONS, routers=4, spread=True),
        Case(
            "caches told x4",
            _SESSIONS,
            lambda fleet, _: replace(fleet, believed_cache_tokens=4 * fleet.cache_tokens),
        ),
        Case("caches not told", _SESSIONS, lambda fleet, _: replace(fleet, believed_cache_tokens=0)),
        Case(
            "uneven half",
            ("conversation", "agent-loops", "no-reuse"),
            lambda fleet, _: replace(fleet, speeds=(1.0, 0.5)),
            speed_ratio=6 / 8,
        ),
        Case(
            "uneven quarter",
            ("conversation", "agent-loops", "no-reuse"),
            lambda fleet, _: replace(fleet, speeds=(0.25,) + (1.0,) * (fleet.replicas - 1)),
            speed_ratio=7.25 / 8,
        ),
        Case(
            "uneven throttled",
            ("conversation", "agent-loops"),
            lambda fleet, source: replace(
                fleet, changes=(SpeedChange(0, 0.25, request=source.requests // 2),)
            ),
            speed_ratio=(8 + 7.25) / 2 / 8,
        ),
    ]
    return made


def whole_cases() -> list[Case]:
    """Return the cases in which answers come whole, all of them or half, as the API's default is: 40 cells."""
    return [
        replace(PLAIN, name="whole", whole_ratio=1.0),
        replace(PLAIN, name="half whole", whole_ratio=0.5),
        *[replace(case, name=f"whole, {case.name}", whole_ratio=1.0) for case in _prior_cases()],
    ]


def wanted_knees(
    sources: Mapping[str, Source], fleet: FleetConfig, seeds: Sequence[int]
) -> dict[str, tuple[Source, FleetConfig]]:
    """Return the knees to find, all of them of the plain fleet, by key."""
    return {
        knee_key(name, CACHE_TOKENS, seed): (of_seed(source, seed), _plain(fleet, seed))
        for name, source in sources.items()
        for seed in seeds
    }


def axis_cells(
    sources: Mapping[str, Source], knees: Mapping[str, float], fleet: FleetConfig, seed: int
) -> Iterator[Cell]:
    """Yield all cells under one seed, of the workloads that `sources` has."""
    return cells_of(cases(), sources, knees, fleet, seed)


def whole_cells(
    sources: Mapping[str, Source], knees: Mapping[str, float], fleet: FleetConfig, seed: int
) -> Iterator[Cell]:
    """Yield the cells whose answers come whole, under one seed."""
    return cells_of(whole_cases(), sources, knees, fleet, seed)


def cells_of(
    of: Sequence[Case],
    sources: Mapping[str, Source],
    knees: Mapping[str, float],
    fleet: FleetConfig,
    seed: int,
) -> Iterator[Cell]:
    """Yield the cells of these cases."""
    for case in of:
        for workload in case.workloads:
            if workload not in sources:
                continue
            key = knee_key(workload, CACHE_TOKENS, seed)
            # The source is the same slice or draw as in the plain case, or a longer one that begins with it.
            source = of_seed(sources[workload], seed)
            source = replace(
                source,
                requests=round(source.requests * case.requests_ratio),
                spread=case.spread,
                whole_ratio=case.whole_ratio,
            )
            own = case.change(_plain(fleet, seed), source)
            more = RIVALS_OF.get(workload, ()) if case.more_rivals else ()
            for share in case.shares:
                yield Cell(
                    f"{case.name}: {workload} {share:.0%}",
                    source,
                    knees[key] * share * case.speed_ratio,
                    own,
                    knee=key,
                    routers=case.routers,
                    rivals=(KNEE_POLICY, *more),
                )


def _plain(fleet: FleetConfig, seed: int) -> FleetConfig:
    return replace(fleet, cache_tokens=CACHE_TOKENS, seed=seed)


@dataclass(slots=True)
class Summary:
    """The summary of one case, or of a part of the plain case. Each ratio is a list of three geometric means over the
    case's cells: of the TTFT mean, p90 and p99."""

    name: str
    cells: int
    over_rival: list[float]
    """The policy's TTFT over that of `KNEE_POLICY` in the same cells."""
    plain_over_rival: list[float] | None
    """The same ratio in the plain case, for the same workloads and loads; None where one of those cells was not
    played."""
    over_plain: list[float] | None
    """The policy's TTFT over its own TTFT in the plain case, corrected for the fleets' different speeds."""
    worst: str
    """The cell with the highest ratio of TTFT means, and that ratio."""


def summaries(outcomes: Sequence[Outcome], policy: str) -> list[Summary]:
    """Summarise the plain case's two halves, the whole plain case, and then every other case that was played."""
    by_case: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_case.setdefault(outcome.cell.name.partition(": ")[0], []).append(outcome)
    plain = {_place(outcome): outcome for outcome in by_case.get(PLAIN.name, ())}
    parts: list[tuple[str, list[Outcome]]] = []
    for name, half in (("plain, chosen on", CHOSEN_ON), ("plain, apart", REPORTED_APART)):
        parts.append((name, [o for place, o in plain.items() if place.rpartition(" ")[0] in half]))
    parts += by_case.items()
    return [_summary(name, of, plain, policy) for name, of in parts if of]


def _place(outcome: Outcome) -> str:
    """Return the outcome's workload and its share of the knee."""
    return outcome.cell.name.partition(": ")[2]


def _summary(name: str, outcomes: list[Outcome], plain: Mapping[str, Outcome], policy: str) -> Summary:
    ratios = [_over(o.figures[policy], o.figures[KNEE_POLICY]) for o in outcomes]
    at = max(range(len(outcomes)), key=lambda index: ratios[index][0])
    same = [plain.get(_place(outcome)) for outcome in outcomes]
    known = [one for one in same if one is not None]
    plain_ratios = over_plain = None
    if len(known) == len(outcomes):
        plain_ratios = _means([_over(o.figures[policy], o.figures[KNEE_POLICY]) for o in known])
        over_plain = _means(
            [
                [ratio * one.cell.fleet.speed for ratio in _over(one.figures[policy], o.figures[policy])]
                for one, o in zip(outcomes, known, strict=True)
            ]
        )
    worst = f"{_place(outcomes[at])} {ratios[at][0]:.2f}"
    return Summary(name, len(outcomes), _means(ratios), plain_ratios, over_plain, worst)


def _over(one: Figures, other: Figures) -> list[float]:
    """Return the mean, p90 and p99 of one policy's TTFT over those of the other."""
    return [
        one.ttft_mean_s / other.ttft_mean_s,
        one.ttft_p90_s / other.ttft_p90_s,
        one.ttft_p99_s / other.ttft_p99_s,
    ]


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [geometric_mean(column) for column in zip(*rows, strict=True)]
