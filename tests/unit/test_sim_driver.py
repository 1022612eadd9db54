"""The simulated engine's clock, on an event loop whose time the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from warmroute_replica.sim.driver import CATCH_UP_S, WAKE_UP_S, Driver
from warmroute_replica.sim.engine import Engine, RunState, SimRequest, StepResult
from warmroute_replica.sim.engine_config import EngineConfig
from warmroute_replica.sim.step_time import StepTime


class Handle:
    def __init__(self, when_s: float, callback: Callable[[], None]) -> None:
        self.when_s = when_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as the driver uses; each reading of the clock costs 10 µs."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.handles: list[Handle] = []
        self.wake_ups = 0

    def time(self) -> float:
        self.now_s += 1e-5
        return self.now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Handle:
        self.handles.append(Handle(when_s, callback))
        return self.handles[-1]

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_at(self.now_s, callback)

    def run(self) -> None:
        while self.handles:
            handle = min(self.handles, key=lambda handle: handle.when_s)
            self.handles.remove(handle)
            if not handle.cancelled:
                self.now_s = max(self.now_s, handle.when_s)
                self.wake_ups += 1
                handle.callback()


class Sink:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.seen: list[tuple[float, int]] = []

    def on_tokens(self, state: RunState) -> None:
        self.seen.append((self.loop.now_s, state.generated))


class Observer:
    def __init__(self) -> None:
        self.results: list[StepResult] = []

    def on_step(self, result: StepResult) -> None:
        self.results.append(result)


def driver(step_s: float, **limits: Any) -> tuple[Loop, Driver, Observer]:
    times = StepTime(1000.0, step_s, 0.0, 0.0, 0.0, 0.0)
    loop, observer = Loop(), Observer()
    engine = Engine(EngineConfig(step_time=times, **limits))
    return loop, Driver(engine, cast(asyncio.AbstractEventLoop, loop), observer), observer


def test_tokens_are_handed_out_when_their_step_ends():
    loop, clock, observer = driver(0.02)
    sink = Sink(loop)
    clock.submit(SimRequest("a", 500, 4), sink)
    loop.run()
    assert [generated for _when, generated in sink.seen] == [1, 2, 3, 4]
    expected = [100.5, 100.52, 100.54, 100.56]
    assert [when for when, _generated in sink.seen] == pytest.approx(expected, abs=0.002)
    assert len(observer.results) == 4


def test_steps_shorter_than_a_timer_share_a_wake_up():
    loop, clock, observer = driver(0.0001)
    sink = Sink(loop)
    clock.submit(SimRequest("a", 1, 1001), sink)
    loop.run()
    assert sink.seen[-1][1] == 1001
    assert sink.seen[-1][0] == pytest.approx(100.1, abs=0.01)
    assert loop.wake_ups <= 0.1 / WAKE_UP_S + 5
    assert sum(result.steps for result in observer.results) == 1001


def test_a_loop_that_was_blocked_catches_up_a_little_and_gives_up_the_rest():
    loop, clock, _observer = driver(0.01)
    sink = Sink(loop)
    clock.submit(SimRequest("a", 1, 1000), sink)
    loop.handles.pop().callback()
    loop.now_s += 3.0
    blocked_until_s = loop.now_s
    loop.run()
    done_s = sink.seen[-1][0]
    assert done_s == pytest.approx(blocked_until_s + 9.99 - CATCH_UP_S, abs=0.05)


def test_an_aborted_sequence_hears_nothing_more_and_an_idle_engine_needs_no_timer():
    loop, clock, _observer = driver(0.02)
    kept, dropped = Sink(loop), Sink(loop)
    clock.submit(SimRequest("kept", 10, 2), kept)
    clock.submit(SimRequest("dropped", 10, 2), dropped)
    loop.handles.pop().callback()
    assert clock.abort("dropped")
    loop.run()
    assert [generated for _when, generated in kept.seen] == [1, 2]
    assert dropped.seen == []
    assert not clock.abort("kept")
    assert loop.handles == []
    clock.submit(SimRequest("late", 10, 1), kept)
    loop.run()
    assert len(kept.seen) == 3


def test_what_arrives_in_one_turn_of_the_loop_shares_the_first_step():
    loop, clock, observer = driver(0.02)
    for name in "abc":
        clock.submit(SimRequest(name, 10, 1), Sink(loop))
    loop.run()
    assert [len(result.first) for result in observer.results] == [3]


def test_a_stopped_clock_is_silent():
    loop, clock, _observer = driver(0.02)
    sink = Sink(loop)
    clock.submit(SimRequest("a", 10, 5), sink)
    clock.stop()
    loop.run()
    assert sink.seen == []


def test_a_paused_clock_hands_out_nothing_and_goes_on_where_it_was():
    loop, clock, observer = driver(0.02)
    first, second = Sink(loop), Sink(loop)
    clock.submit(SimRequest("a", 500, 4), first)
    loop.handles.pop().callback()
    clock.pause()
    clock.pause()
    clock.submit(SimRequest("b", 500, 1), second)
    loop.now_s += 50.0
    loop.run()
    assert (first.seen, second.seen) == ([], [])
    resumed_s = loop.now_s
    clock.resume()
    clock.resume()
    loop.run()
    assert [generated for _when, generated in first.seen] == [1, 2, 3, 4]
    assert first.seen[0][0] - resumed_s < 0.01, "the step under way was done when it stopped"
    assert [generated for _when, generated in second.seen] == [1]
    assert second.seen[0][0] - resumed_s > 0.4, "what came meanwhile is computed after"
    clock.pause()
    clock.resume()
    loop.run()
    assert sum(result.prefill_tokens for result in observer.results) == 1000
