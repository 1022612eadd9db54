"""The memory registry against a model of it, and its bounds, under a clock of the test's own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.adapters.registry.memory import MAX_HOLDERS, MemoryRegistry
from warmroute.adapters.registry.response_homes import ResponseHomes
from warmroute.core.types import FingerprintHash, Incarnation, ReplicaId

IDLE_S = 64.0
FRESH_S = 1.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def fingerprints(*numbers: int) -> list[FingerprintHash]:
    return [FingerprintHash(number) for number in numbers]


def registry_of(clock: Clock, max_entries: int = 10_000, max_bytes: int = 1 << 30) -> MemoryRegistry:
    return MemoryRegistry(
        idle_s=IDLE_S, max_entries=max_entries, max_bytes=max_bytes, clock=clock, secret=b"s" * 16
    )


touches = st.tuples(st.just("touch"), st.integers(0, 30), st.integers(1, 12), st.integers(1, 20))
forgets = st.tuples(st.just("forget"), st.integers(0, 30), st.integers(1, 12), st.integers(1, 20))
waits = st.tuples(st.just("wait"), st.floats(0.0, 80.0), st.just(0), st.just(0))


@given(st.lists(st.one_of(touches, touches, forgets, waits), max_size=60))
def test_lookups_say_what_a_plain_dictionary_would(steps: list[tuple[str, float, int, int]]) -> None:
    clock = Clock()
    registry = registry_of(clock)
    model: dict[int, dict[int, float]] = {}
    for what, start, count, number in steps:
        if what == "wait":
            clock.now_s += start
            continue
        rungs = fingerprints(*range(int(start), int(start) + count))
        if what == "forget":
            registry.forget(rungs, Incarnation(number))
            for rung in rungs:
                model.get(rung, {}).pop(number, None)
            continue
        registry.touch(rungs, Incarnation(number), clock.now_s)
        for rung in rungs:
            known = model.setdefault(rung, {})
            for old in [old for old, at_s in known.items() if at_s < clock.now_s - IDLE_S]:
                del known[old]
            if known.get(number, 0.0) < clock.now_s - FRESH_S:
                known.pop(number, None)
                known[number] = clock.now_s
                while len(known) > MAX_HOLDERS:
                    del known[next(iter(known))]
    rungs = fingerprints(*range(45))
    found = [list(record) if record else [] for record in registry.lookup(rungs, lambda _: None)]
    expected = [
        [(n, at_s) for n, at_s in model.get(rung, {}).items() if at_s >= clock.now_s - IDLE_S]
        for rung in rungs
    ]
    assert found == expected


@given(st.integers(10, 2_000), st.integers(1, 50), st.integers(0, 2**32))
def test_entries_stay_within_their_bound_and_what_is_used_stays(bound: int, at_once: int, seed: int) -> None:
    clock, rng = Clock(), random.Random(seed)
    registry = registry_of(clock, max_entries=bound + 2 * at_once)
    hot = fingerprints(1, 2)
    for _ in range(3 * bound // at_once + 3):
        clock.now_s += 0.001
        registry.touch(hot, Incarnation(7), clock.now_s)
        registry.touch(
            [FingerprintHash(rng.getrandbits(64)) for _ in range(at_once)], Incarnation(7), clock.now_s
        )
        assert registry.statistics()["entries"] <= bound + 4 * at_once + 2
    assert all(registry.lookup(hot, lambda _: None)), (
        "what every request touches outlives what none touches twice"
    )


def test_bytes_stay_within_their_bound() -> None:
    clock, rng = Clock(), random.Random(1)
    registry = registry_of(clock, max_bytes=1_000_000)
    for number in range(2_000):
        rungs = [FingerprintHash(rng.getrandbits(64)) for _ in range(10)]
        for life in range(1, 1 + number % 20):
            registry.touch(rungs, Incarnation(life), clock.now_s)
        assert registry.statistics()["bytes"] <= 1_600_000
    assert registry.statistics()["evictions_total"] > 10_000


def test_all_rungs_first_touched_by_one_request_share_one_record() -> None:
    clock = Clock()
    registry = registry_of(clock)
    registry.touch(fingerprints(*range(100)), Incarnation(7), clock.now_s)
    assert len({id(record) for record in registry.lookup(fingerprints(*range(100)), lambda _: None)}) == 1


def test_a_fresh_holder_is_not_noted_again_and_the_rest_is_named() -> None:
    clock = Clock()
    registry = registry_of(clock)
    registry.touch(fingerprints(1, 2), Incarnation(7), clock.now_s)
    assert registry.note(fingerprints(1, 2, 3), Incarnation(7), clock.now_s, clock.now_s - 1.0) == [3]
    clock.now_s += 2.0
    assert registry.note(fingerprints(1, 2, 3), Incarnation(7), clock.now_s, clock.now_s - 1.0) == [1, 2, 3]


def test_idle_rungs_leave_memory_without_being_read() -> None:
    clock = Clock()
    registry = registry_of(clock)
    registry.touch(fingerprints(*range(1_000)), Incarnation(7), clock.now_s)
    for _ in range(700):
        clock.now_s += IDLE_S / 300
        registry.touch(fingerprints(5_000), Incarnation(7), clock.now_s)
    assert registry.statistics()["entries"] == 1
    assert registry.statistics()["bytes"] < 100_000


def test_a_shorter_idle_time_frees_memory_sooner() -> None:
    clock = Clock()
    registry = registry_of(clock)
    registry.touch(fingerprints(*range(1_000)), Incarnation(7), clock.now_s)
    registry.expire_after(IDLE_S / 8)
    for _ in range(90):
        clock.now_s += IDLE_S / 300
        registry.touch(fingerprints(5_000), Incarnation(7), clock.now_s)
    assert registry.statistics()["entries"] == 1, "after not a third of the first idle time"


def test_entries_since_names_what_was_touched_since() -> None:
    clock = Clock()
    registry = registry_of(clock)
    registry.touch(fingerprints(1, 2), Incarnation(7), clock.now_s)
    clock.now_s += 10.0
    registry.touch(fingerprints(2, 3), Incarnation(8), clock.now_s)
    assert {rung for rung, _ in registry.entries_since(clock.now_s)} == {2, 3}


def test_settings_that_leave_no_room_are_refused() -> None:
    for settings in ({"idle_s": 0.0}, {"max_entries": 1}, {"max_bytes": 10}):
        with pytest.raises(ValueError, match="room"):
            MemoryRegistry(**settings)  # type: ignore[arg-type]


def test_response_homes_are_bounded_the_oldest_goes_first() -> None:
    homes = ResponseHomes(IDLE_S, max_entries=10)
    for number in range(25):
        homes.remember(f"r{number}", ReplicaId("a"), 100.0 + number)
    assert len(homes) == 10
    assert homes.find("r14", 125.0) is None
    assert homes.find("r15", 125.0) == "a"
    homes.remember("late", ReplicaId("b"), 100.0 + 25 + IDLE_S + 10)
    assert len(homes) == 9, "two expired ones went for the new one"


def test_what_is_kept_outlives_both_generations_and_goes_when_its_time_has_come() -> None:
    clock = Clock()
    registry = registry_of(clock, max_entries=40)
    registry.keep(fingerprints(1, 2), Incarnation(7), clock.now_s, clock.now_s + 1000.0)
    registry.touch(fingerprints(3), Incarnation(7), clock.now_s)
    for number in range(100, 900, 10):
        registry.touch(fingerprints(*range(number, number + 10)), Incarnation(8), clock.now_s)
        clock.now_s += 10.0
    held = registry.read(fingerprints(1, 2, 3))
    assert [record and record[0][0] for record in held] == [7, 7, None]
    assert registry.statistics()["entries"] <= 40
    clock.now_s += 300.0
    registry.touch(fingerprints(4), Incarnation(8), clock.now_s)
    assert registry.read(fingerprints(1, 2)) == [None, None]


def test_what_is_kept_is_bounded_and_never_for_a_shorter_time_than_it_was_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warmroute.adapters.registry.memory.MAX_KEPT", 2)
    clock = Clock()
    registry = registry_of(clock)
    registry.keep(fingerprints(1, 2), Incarnation(7), clock.now_s, clock.now_s + 1000.0)
    registry.keep(fingerprints(2), Incarnation(7), clock.now_s, clock.now_s + 10.0)
    registry.keep(fingerprints(3), Incarnation(7), clock.now_s, clock.now_s + 1000.0)
    clock.now_s += 500.0
    assert [record is not None for record in registry.read(fingerprints(1, 2, 3))] == [False, True, True]
