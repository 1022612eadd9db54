"""What routers are told of a fleet and what it is: priors, cache sizes, speeds, and that time itself has no unit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.command import main
from warmroute_loadtest.simulate.generators import multi_turn
from warmroute_loadtest.simulate.jobs import Play
from warmroute_loadtest.simulate.metrics import figures
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.simulation import HOP_S, FleetConfig, SpeedChange, simulate
from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.warm import Warm, warm
from warmroute_loadtest.simulate.workload import Session, Turn, Workload
from warmroute_replica.sim.step_time import StepTime

SMALL = FleetConfig(replicas=4, cache_tokens=200_000)


def sited(fleet: FleetConfig) -> Site:
    """What a router of the fleet is told."""
    sites: list[Site] = []

    def make(site: Site) -> Chooser:
        sites.append(site)
        return RIVALS["round-robin"](site)

    simulate(Workload("test", 512, [Session(0.0, [Turn("a", 100, 1, ())])]), fleet, make)
    return sites[0]


@pytest.mark.parametrize("speed", [0.125, 12.5])
@pytest.mark.parametrize("policy", ["waiting+2x", "llm-d"])
def test_at_another_speed_a_rule_without_units_does_the_same_in_other_time(policy: str, speed: float) -> None:
    workload = multi_turn(300).at_rate(8.0)
    usual = simulate(workload, SMALL, RIVALS[policy])
    scaled = simulate(workload, replace(SMALL, speed=speed, hop_s=HOP_S / speed), RIVALS[policy])
    assert [(s.turn.id, s.replica) for s in scaled.served] == [(s.turn.id, s.replica) for s in usual.served]
    times = [s.ttft_s * speed for s in scaled.served]
    assert times == pytest.approx([s.ttft_s for s in usual.served])
    assert scaled.span_s * speed == pytest.approx(usual.span_s)
    one, other = figures(usual), figures(scaled)
    assert other.goodput_ratio == one.goodput_ratio
    assert other.busy_ratio == pytest.approx(one.busy_ratio)


def test_hops_are_of_the_machine_whatever_the_speed() -> None:
    workload = Workload("test", 512, [Session(1.0, [Turn("a", 800, 1, (1,))])])
    (served,) = simulate(workload, replace(SMALL, speed=10.0), RIVALS["round-robin"]).served
    assert served.arrival_s == pytest.approx(0.1)
    assert served.ttft_s == pytest.approx(2 * HOP_S + StepTime(speed=10.0).step_s(800, 800 * 400, 0, 0))


def test_routers_are_told_a_prior_that_may_be_wrong_while_engines_are_as_fast() -> None:
    fleet = replace(SMALL, step_time=StepTime(prefill_tokens_per_s=2000.0), speed=4.0, prior_ratio=0.01)
    site = sited(fleet)
    assert site.prefill_tokens_per_s == pytest.approx(80.0)
    assert [engine.config.step_time.speed for engine in site.engines] == [4.0] * 4
    (first, *_) = Warm(site, "prefix-cost").fleet.replicas.values()
    assert first.prefill_tokens_per_s == pytest.approx(80.0)


@pytest.mark.parametrize(("believed", "told"), [(None, 200_000), (800_000, 800_000), (0, None)])
def test_routers_are_told_the_cache_size_another_or_none(believed: int | None, told: int | None) -> None:
    site = sited(replace(SMALL, believed_cache_tokens=believed))
    assert site.cache_tokens == told
    assert site.engines[0].config.cache_tokens == 200_000
    assert {one.cache_tokens for one in Warm(site, "prefix-cost").fleet.replicas.values()} == {told}


@pytest.mark.parametrize("policy", [*RIVALS, "prefix-cost", "prefix-cost x2"])
def test_every_policy_serves_a_fleet_that_tells_nothing_and_is_uneven(policy: str) -> None:
    fleet = replace(
        SMALL,
        believed_cache_tokens=0,
        prior_ratio=100.0,
        speeds=(1.0, 0.5),
        changes=(SpeedChange(1, 0.25, request=20), SpeedChange(1, 1.0, at_s=20.0)),
    )
    played = Play(Source("multi-turn", 60), 4.0, fleet, policy).run()
    assert played.figures.requests >= 60


def one_after_another(count: int, apart_s: float) -> Workload:
    """Prompts of 800 tokens that nobody shares."""
    turns = [Turn(f"t{number}", 800, 1, (number + 1,)) for number in range(count)]
    return Workload("test", 512, [Session(apart_s * number, [turn]) for number, turn in enumerate(turns)])


def test_a_replica_is_throttled_as_a_request_comes_or_at_a_time() -> None:
    alone = FleetConfig(replicas=1)
    step_s = StepTime().step_s(800, 800 * 400, 0, 0)

    def times(*changes: SpeedChange, speed: float = 1.0) -> list[float]:
        fleet = replace(alone, changes=changes, speed=speed)
        run = simulate(one_after_another(4, 10.0), fleet, warm("prefix-cost"))
        return [(s.ttft_s - 2 * HOP_S) / step_s for s in run.served]

    assert times() == pytest.approx([1, 1, 1, 1])
    assert times(SpeedChange(0, 0.5, request=3)) == pytest.approx([1, 1, 2, 2])
    assert times(SpeedChange(0, 0.25, at_s=5.0), SpeedChange(0, 1.0, at_s=25.0)) == pytest.approx(
        [1, 4, 4, 1]
    )
    assert times(SpeedChange(0, 0.5, at_s=25.0), speed=2.0) == pytest.approx([0.5, 0.5, 0.5, 1])


def test_a_step_under_way_ends_as_it_began() -> None:
    fleet = FleetConfig(replicas=1, changes=(SpeedChange(0, 0.1, at_s=0.05),))
    run = simulate(one_after_another(1, 1.0), fleet, RIVALS["round-robin"])
    assert run.served[0].ttft_s == pytest.approx(2 * HOP_S + StepTime().step_s(800, 800 * 400, 0, 0))
    assert run.served[0].ttft_s > 0.06


def test_speeds_are_said_again_until_every_replica_has_one() -> None:
    site = sited(replace(SMALL, speeds=(1.0, 0.5)))
    assert [engine.config.step_time.speed for engine in site.engines] == [1.0, 0.5, 1.0, 0.5]


class Urgent(RIVALS["round-robin"]):  # type: ignore[misc, valid-type]
    """Sends short prompts as urgent ones."""

    def priority(self, turn: Turn) -> int:
        return turn.prompt_tokens


def test_engines_share_steps_and_order_by_priority_as_the_fleet_says() -> None:
    sizes = (8192 * 3, 8000, 100)
    workload = Workload(
        "test", 512, [Session(0.001 * n, [Turn(str(n), size, 1, ())]) for n, size in enumerate(sizes)]
    )

    def order(**fields: object) -> list[str]:
        fleet = replace(FleetConfig(replicas=1), **fields)  # type: ignore[arg-type]
        return [s.turn.id for s in sorted(simulate(workload, fleet, Urgent).served, key=lambda s: s.first_s)]

    assert order() == ["0", "1", "2"]
    assert order(scheduling_policy="priority") == ["0", "2", "1"]
    assert order(long_prefill_token_threshold=1024)[0] == "2"
    assert order(long_prefill_token_threshold=1024, long_prefill_token_threshold_adaptive=True)[0] == "2"
    with pytest.raises(ValueError, match="threshold"):
        order(long_prefill_token_threshold=-1)


def test_what_routers_are_told_makes_another_run() -> None:
    def identity(**more: object) -> str:
        return Play(Source("no-reuse", 10), None, replace(SMALL, **more), "waiting+2x").identity  # type: ignore[arg-type]

    changed = [
        identity(prior_ratio=0.01),
        identity(believed_cache_tokens=0),
        identity(speed=12.5),
        identity(long_prefill_token_threshold=1024),
        identity(scheduling_policy="priority"),
        identity(speeds=(1.0, 0.5)),
        identity(changes=(SpeedChange(0, 0.5, request=5),)),
        identity(changes=(SpeedChange(0, 0.5, at_s=5.0),)),
    ]
    assert len({identity(), *changed}) == 1 + len(changed)
    assert identity() == identity()


@pytest.mark.parametrize(
    "nonsense",
    [
        {"prior_ratio": 0.0},
        {"speed": -1.0},
        {"speeds": (1.0, 0.5, 0.5)},
        {"changes": (SpeedChange(4, 0.5, request=1),)},
    ],
)
def test_a_fleet_that_cannot_be_is_refused(nonsense: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"above 0|do not make|no replica"):
        replace(SMALL, **nonsense)  # type: ignore[arg-type]
    for odd in ((0, -1.0, 1, None), (0, 0.5, None, None), (0, 0.5, 1, 1.0)):
        with pytest.raises(ValueError, match="speed"):
            SpeedChange(*odd)


def test_the_command_has_a_flag_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--requests", "40", "--replicas", "2", "--policy", "waiting+2x"]
    asked = [*small, "--prior-ratio", "0.01", "--believed-cache-tokens", "none", "--speed", "2"]
    asked += ["--long-prefill-token-threshold", "512", "--long-prefill-token-threshold-adaptive"]
    asked += ["--scheduling-policy", "priority"]
    assert main([*asked, "--speeds", "1", "--speed-change", "1:0.5@20", "--speed-change", "0:0.25@9.5s"]) == 0
    printed = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line)
    assert printed["told_cache_tokens"] == "None"
    assert float(printed["prior_tokens_per_s"]) == 160.0
    assert printed["speed"] == "2.0"
    assert printed["order_in_engine"] == "priority, long prompts capped to 512 tokens or a fair share a step"
    for wrong in ("0", "1:0@5", "a:1@5", "1:1@5.5", "1:0.5@"):
        with pytest.raises(SystemExit):
            main([*small, "--speed-change", wrong])
    assert main([*small, "--speed-change", "2:0.5@5"]) == 2
