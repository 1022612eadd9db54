"""Chunks of prompts: where they begin, who is believed to hold them, and what answers teach of them."""

from __future__ import annotations

import pytest

from tests.support.fleet_simulation import GRID, ready_fleet
from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.prompt.chunks import MOST_CHUNKS, MOST_PARTS, Blend, add_chunks
from warmroute.core.prompt.fingerprint import Fingerprinter
from warmroute.core.types import Incarnation, Record, RequestShape

SEPARATOR = b" # # "
BLEND = Blend(SEPARATOR, 256, 0.25)
FINGERPRINTER = Fingerprinter(b"secret")
SYSTEM = b"s" * 2048
FIRST, SECOND = Incarnation(1), Incarnation(2)
STORED_S = 1_000_000.0


def passage(name: str, size: int = 2048) -> bytes:
    """A text of so many bytes that no other name has."""
    return (name.encode() + b" ").ljust(size, name[0].encode())


def shape(*parts: bytes, model: str = "m", scope: str = "", blend: Blend | None = BLEND) -> RequestShape:
    canonical = SEPARATOR.join(parts)
    found = FINGERPRINTER.shape(model, scope, canonical)
    if blend is not None:
        add_chunks(found, blend.chunks(canonical, FINGERPRINTER.space(model, scope), 4.0))
    return found


def hashes(of: RequestShape) -> list[int]:
    return [*of.chunks.hashes] if of.chunks is not None else []


def records(
    of: RequestShape, held: RequestShape, *lives: Incarnation, at_s: float = STORED_S
) -> list[Record | None]:
    """What the registry says of one prompt after another was sent to these replicas."""
    known = set(held.keys)
    record: Record = tuple((life, at_s) for life in lives)
    return [record if key in known else None for key in of.keys]


def ask(fleet: Fleet, of: RequestShape, found: list[Record | None], now_s: float = STORED_S + 10) -> Decision:
    decision = fleet.choose_and_reserve(of, found, now_s)
    fleet.started(decision, now_s)
    fleet.settle(decision, now_s)
    return decision


def test_a_chunk_is_what_stands_between_two_separators_or_behind_the_last() -> None:
    found = shape(SYSTEM, passage("a"), passage("b"), passage("question"))
    assert found.chunks is not None
    at = len(SYSTEM) + len(SEPARATOR)
    assert found.chunks.bounds == [(at + i * (2048 + 5), at + i * (2048 + 5) + 2048) for i in range(3)]
    assert found.keys == found.rungs + found.chunks.hashes
    assert len(set(found.keys)) == len(found.keys)


def test_what_stands_before_the_first_separator_is_no_chunk_and_short_parts_are_none() -> None:
    assert shape(SYSTEM).chunks is None
    assert shape(SYSTEM, passage("a", 1023)).chunks is None
    assert len(hashes(shape(SYSTEM, passage("a", 1024), b"short", passage("b")))) == 2
    assert shape(SYSTEM, b"").chunks is None


def test_a_chunk_that_comes_twice_counts_once() -> None:
    assert len(hashes(shape(SYSTEM, passage("a"), passage("b"), passage("a")))) == 2


def test_models_and_scopes_share_no_chunks() -> None:
    parts = (SYSTEM, passage("a"), passage("b"))
    own = set(hashes(shape(*parts)))
    assert not own & set(hashes(shape(*parts, model="other")))
    assert not own & set(hashes(shape(*parts, scope="tenant")))


def test_a_prompt_has_so_many_chunks_at_most() -> None:
    small = Blend(SEPARATOR, 1, 0.0)
    found = shape(SYSTEM, *(passage(f"{i:05d}", 16) for i in range(MOST_CHUNKS + 40)), blend=small)
    assert len(hashes(found)) == MOST_CHUNKS
    late = SEPARATOR * (MOST_PARTS + 1) + passage("late")
    assert small.chunks(late, 1, 4.0) is None, "prompts of separators are not looked through to their end"
    assert small.chunks(late[len(SEPARATOR) :], 1, 4.0) is not None


def test_without_a_separator_the_keys_are_the_rungs_themselves() -> None:
    found = shape(SYSTEM, passage("a"), blend=None)
    assert found.keys is found.rungs
    assert found.chunks is None


def test_passages_in_another_order_are_known_at_their_holder() -> None:
    fleet = ready_fleet(2)
    before = shape(SYSTEM, passage("a"), passage("b"), passage("c"))
    after = shape(SYSTEM, passage("c"), passage("a"), passage("b"))
    decision = ask(fleet, after, records(after, before, SECOND))
    assert decision.replica.incarnation == SECOND
    # 512 tokens are the system prompt, but for a block in which it ends; of 1,536 behind it a quarter is computed.
    assert decision.predicted_tokens == 496 + 1150
    assert decision.chunk_uses == [(STORED_S, 1150)]


def test_of_a_chunk_in_the_known_prefix_nothing_counts_twice() -> None:
    fleet = ready_fleet(1)
    again = shape(SYSTEM, passage("a"), passage("b"))
    decision = ask(fleet, again, records(again, again, FIRST))
    leading = again.prompt_tokens * GRID[len(again.rungs) - 1] // again.prompt_bytes
    leading -= leading % 16
    assert decision.predicted_tokens == leading + int((again.prompt_tokens - leading) * 0.75)
    assert decision.predicted_tokens < again.prompt_tokens


def test_the_whole_prompt_is_never_counted_on() -> None:
    fleet = ready_fleet(1)
    whole = Blend(SEPARATOR, 1, 0.0)
    before = shape(b"x", passage("a"), blend=whole)
    after = shape(b"", passage("a"), blend=whole)
    decision = ask(fleet, after, records(after, before, FIRST))
    assert decision.predicted_tokens == after.prompt_tokens - 1


def test_chunks_of_several_prompts_add_up_at_the_replica_that_has_most_of_them() -> None:
    fleet = ready_fleet(2)
    wanted = shape(b"new", passage("a"), passage("b"), passage("c"))
    one = records(wanted, shape(b"p", passage("a")), FIRST)
    two = records(wanted, shape(b"q", passage("b"), passage("c")), SECOND)
    decision = ask(fleet, wanted, [first or second for first, second in zip(one, two, strict=True)])
    assert decision.replica.incarnation == SECOND
    assert decision.predicted_tokens == 767


def test_records_of_the_rungs_alone_are_read_as_without_chunks() -> None:
    of = shape(SYSTEM, passage("a"))
    found = records(of, of, FIRST)
    plain = shape(SYSTEM, passage("a"), blend=None)
    now_s = STORED_S + 1
    with_chunks = ready_fleet(2).choose_and_reserve(of, found[: len(of.rungs)], now_s)
    without = ready_fleet(2).choose_and_reserve(plain, records(plain, plain, FIRST), now_s)
    assert with_chunks.predicted_tokens == without.predicted_tokens > 0


@pytest.mark.parametrize("reported", [496, 496 + 1150])
def test_what_is_reported_of_a_prompt_with_chunks_teaches_of_chunks_alone(reported: int) -> None:
    fleet = ready_fleet(1)
    (replica,) = fleet.replicas.values()
    before = shape(SYSTEM, passage("a"), passage("b"), passage("c"))
    after = shape(SYSTEM, passage("c"), passage("a"), passage("b"))
    for _ in range(100):
        decision = ask(fleet, after, records(after, before, FIRST))
        fleet.confirm(decision, reported, 5, STORED_S + 11)
    assert replica.trust.certain
    assert replica.survival.certain
    assert replica.residency.tokens == 0, "its cache's size is not known"
    predicted = ask(fleet, after, records(after, before, FIRST)).predicted_tokens
    if reported == 496:
        assert predicted < 496 + 128, "an engine that finds no chunks is not believed to have them"
    else:
        assert predicted == 496 + 1150


def test_what_is_missing_is_missing_of_the_chunks_that_were_used_longest_ago() -> None:
    fleet = ready_fleet(1)
    (replica,) = fleet.replicas.values()
    of = shape(SYSTEM, passage("a"), passage("b"))
    assert of.chunks is not None
    old: Record = ((FIRST, STORED_S - 1000),)
    new: Record = ((FIRST, STORED_S),)
    found: list[Record | None] = [*[None] * len(of.rungs), old, new]
    for _ in range(100):
        fleet.confirm(ask(fleet, of, found), 384, 5, STORED_S + 11)
    assert replica.chunk_trust.share(10.0) == 1.0
    assert replica.chunk_trust.share(1000.0) < 0.1


def test_explaining_tells_the_chunks_of_each_candidate() -> None:
    fleet = ready_fleet(2)
    before = shape(SYSTEM, passage("a"), passage("b"))
    after = shape(SYSTEM, passage("b"), passage("a"))
    rows = fleet.rank(after, records(after, before, SECOND), STORED_S + 10).as_dict()["candidates"]
    assert isinstance(rows, list)
    assert [(row["replica"], row["predicted_chunk_tokens"]) for row in rows] == [("r1", 767), ("r0", 0)]
    plain = shape(SYSTEM, passage("a"), blend=None)
    (row, _) = fleet.rank(plain, [None] * len(plain.rungs), STORED_S + 10).candidates
    assert "predicted_chunk_tokens" not in row.as_dict()
