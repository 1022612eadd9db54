"""What a router believes, given what Redis says and what it placed itself."""

from __future__ import annotations

import math

from tests.support.registry_records import pack_record
from warmroute.adapters.registry.memory import MemoryRegistry
from warmroute.adapters.registry.redis.overlay import Overlay
from warmroute.core.types import FingerprintHash, Incarnation

NOW_S = 1_800_000_000.0


class Scene:
    """An overlay at a fixed time, with settable confirmation."""

    def __init__(self) -> None:
        self.now_s = NOW_S
        self.unwritten_s = math.inf
        self.local = MemoryRegistry(clock=lambda: self.now_s)
        self.overlay = Overlay(self.local, 1800.0, lambda: self.unwritten_s, lambda: self.now_s)

    def placed(self, number: int, ago_s: float, *rungs: int) -> None:
        self.local.touch(fingerprints(*rungs), Incarnation(number), self.now_s - ago_s)

    def believed(self, rungs: tuple[int, ...], *raws: bytes | None) -> list[list[int] | None]:
        records = self.overlay.merge(fingerprints(*rungs), raws)
        return [None if record is None else [number for number, _ in record] for record in records]


def fingerprints(*numbers: int) -> list[FingerprintHash]:
    return [FingerprintHash(number) for number in numbers]


def stored(*holders: tuple[int, float]) -> bytes:
    return pack_record(tuple((Incarnation(number), NOW_S - ago_s) for number, ago_s in holders))


def test_redis_is_believed() -> None:
    assert Scene().believed((1, 2, 3), stored((7, 5)), None, stored((8, 9), (7, 5))) == [[7], None, [8, 7]]


def test_an_own_placement_shows_until_its_write_is_confirmed_and_then_only_if_redis_has_it() -> None:
    scene = Scene()
    scene.placed(7, 1.0, 1)
    scene.unwritten_s = NOW_S - 1.0
    assert scene.believed((1,), None) == [[7]]
    assert scene.believed((1,), stored((8, 0.5))) == [[7, 8]]
    scene.unwritten_s = math.inf
    assert scene.believed((1,), stored((8, 0.5))) == [[8]]


def test_a_holder_that_somebody_else_withdrew_is_dropped_here_too() -> None:
    scene = Scene()
    scene.placed(7, 10.0, 1, 2, 3)
    assert scene.believed((1, 2, 3), None, None, stored((7, 10.0))) == [None, None, [7]]
    assert scene.local.read(fingerprints(1, 2)) == [None, None]
    assert scene.local.read(fingerprints(3)) != [None]


def test_what_an_outage_may_have_lost_stays_visible() -> None:
    scene = Scene()
    scene.placed(7, 10.0, 1)
    scene.overlay.trusted_s = NOW_S - 5.0
    assert scene.believed((1,), None) == [[7]]


def test_where_redis_could_not_be_asked_the_own_placements_are_the_answer() -> None:
    scene = Scene()
    scene.placed(7, 10.0, 1)
    assert scene.believed((1, 2), b"", b"") == [[7], None]
    assert scene.believed((1,), b"") == [[7]], "and nothing is dropped"


def test_an_own_later_use_moves_the_holder_up() -> None:
    scene = Scene()
    scene.placed(7, 0.0, 1)
    scene.unwritten_s = NOW_S
    (record,) = scene.overlay.merge(fingerprints(1), [stored((7, 100.0), (8, 50.0))])
    assert record is not None
    assert record[-1] == (7, NOW_S)


def test_a_withdrawn_holder_is_hidden_until_redis_has_forgotten_it() -> None:
    scene = Scene()
    scene.overlay.withdraw(fingerprints(1, 2), Incarnation(7))
    assert scene.believed((1, 2, 3), stored((7, 1)), stored((7, 1), (8, 1)), stored((7, 1))) == [
        None,
        [8],
        [7],
    ]
    scene.overlay.withdrawal_ended(fingerprints(1, 2), Incarnation(7))
    assert scene.believed((1,), stored((7, 1))) == [[7]]


def test_equal_bytes_are_one_object() -> None:
    scene = Scene()
    raws = [stored((7, 1)) for _ in range(10)] + [stored((8, 1))] + [stored((7, 1))]
    records = scene.overlay.merge(fingerprints(*range(12)), raws)
    assert len({id(record) for record in records}) == 2


def test_holders_past_the_idle_time_are_not_shown() -> None:
    assert Scene().believed((1, 2), stored((7, 1900)), stored((7, 1900), (8, 100))) == [None, [8]]


def test_a_changed_idle_time_shows_and_hides_at_once() -> None:
    scene = Scene()
    raw = stored((7, 400.0), (8, 3.0))
    assert scene.believed((1,), raw) == [[7, 8]]
    scene.overlay.expire_after(300.0)
    assert scene.believed((1,), raw) == [[8]]
    scene.overlay.expire_after(500.0)
    assert scene.believed((1,), raw) == [[7, 8]]


def test_at_most_sixteen_holders_come_of_a_merge() -> None:
    scene = Scene()
    for number in range(100, 110):
        scene.placed(number, 0.0, 1)
    scene.unwritten_s = NOW_S
    (believed,) = scene.believed((1,), stored(*[(number, 50.0 - number) for number in range(16)]))
    assert believed is not None
    assert believed[-10:] == list(range(100, 110))
    assert len(believed) == 16
