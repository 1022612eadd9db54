"""The driver runs an engine in real time on an event loop: it starts steps when they are due, and hands out tokens when
they are made.

This module decides when a step starts; the engine decides what the step computes. The driver has no task, only one
timer, set for the end of the step under way. It runs several steps shorter than `WAKE_UP_S` at each wake-up, so that a
fast simulation costs no more wake-ups than that.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from warmroute_replica.sim.engine import Engine, RunState, SimRequest, StepResult

WAKE_UP_S = 0.001
"""Resolution of the event loop's timers, in seconds."""
BURST_S = 0.005
"""The driver spends at most this long on steps before other work on the loop gets its turn."""
CATCH_UP_S = 0.1
"""Simulated time may lag behind the clock by this much; what exceeds it is given up. So a machine too slow for
`--speed` runs slower, not in bursts."""


class TokenSink(Protocol):
    """Receives a sequence's tokens."""

    def on_tokens(self, state: RunState) -> None:
        """Take note that the sequence has new tokens, perhaps its last ones. Called on the loop; must not raise."""


class StepObserver(Protocol):
    """Receives the results of an engine's steps, to measure them."""

    def on_step(self, result: StepResult) -> None:
        """Take note that a run of steps has ended. Called before its tokens are handed out."""


class Driver:
    """The clock of one engine, owned by one event loop."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, observer: StepObserver) -> None:
        self.engine = engine
        self._loop = loop
        self._observer = observer
        self._sinks: dict[str, TokenSink] = {}
        self._timer: asyncio.Handle | None = None
        self._under_way: StepResult | None = None
        self._time_s = 0.0
        self._paused = False

    def submit(self, request: SimRequest, sink: TokenSink) -> RunState:
        """Queue a sequence; the driver tells `sink` of its tokens until its last token or `abort`."""
        now_s = self._loop.time()
        state = self.engine.add(request, now_s)
        self._sinks[request.id] = sink
        if self._timer is None and not self._paused:
            self._time_s = now_s
            # The first step is not started at once, so that requests of the same turn of the loop share it.
            self._timer = self._loop.call_soon(self._tick)
        return state

    def abort(self, request_id: str) -> bool:
        """Drop a sequence; return False if it has already finished in the engine."""
        self._sinks.pop(request_id, None)
        return self.engine.abort(request_id)

    def pause(self) -> None:
        """Stop the clock: sequences that are queued, and those that come, wait without any sign of it."""
        self._paused = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        """Let the clock go on after `pause`; without one this does nothing."""
        if not self._paused:
            return
        self._paused = False
        if self._under_way is not None or not self.engine.idle:
            self._time_s = self._loop.time()
            self._timer = self._loop.call_soon(self._tick)

    def stop(self) -> None:
        """Stop the clock for good; from then on no sink is told of anything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sinks.clear()
        self._under_way = None

    def _tick(self) -> None:
        loop_time = self._loop.time
        started_s = now_s = loop_time()
        engine = self.engine
        while True:
            if self._under_way is not None:
                result, self._under_way = self._under_way, None
                self._deliver(result)
            if engine.idle:
                self._timer = None
                return
            self._time_s = max(self._time_s, now_s - CATCH_UP_S)
            result = engine.advance(self._time_s, now_s + WAKE_UP_S)
            self._time_s = result.end_s
            self._under_way = result
            now_s = loop_time()
            if result.end_s > now_s + WAKE_UP_S:
                self._timer = self._loop.call_at(result.end_s, self._tick)
                return
            if now_s - started_s > BURST_S:
                self._timer = self._loop.call_soon(self._tick)
                return

    def _deliver(self, result: StepResult) -> None:
        self._observer.on_step(result)
        sinks = self._sinks
        for state in result.tokens:
            sink = sinks.get(state.id)
            if sink is not None:
                sink.on_tokens(state)
        for state in result.finished:
            sinks.pop(state.id, None)
