"""What chunks promise whatever the prompt: places do not matter, and without them nothing is as if they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.prompt.chunks import Blend, add_chunks
from warmroute.core.prompt.fingerprint import Fingerprinter
from warmroute.core.types import Incarnation, Record, RequestShape

FINGERPRINTER = Fingerprinter(b"secret")
SEPARATOR = b" # # "
BLEND = Blend(SEPARATOR, 16, 0.15)
HEADS = st.binary(max_size=2000).filter(lambda head: SEPARATOR not in head + SEPARATOR[:-1])
PASSAGES = st.lists(st.integers(0, 20), min_size=1, max_size=8, unique=True)


def text(number: int) -> bytes:
    return b"%d says: " % number + b"%d" % (number % 10) * (60 + 40 * number)


def shape(head: bytes, passages: list[int], blend: Blend | None = BLEND) -> RequestShape:
    canonical = SEPARATOR.join([head, *map(text, passages)])
    found = FINGERPRINTER.shape("m", "", canonical)
    if blend is not None:
        add_chunks(found, blend.chunks(canonical, FINGERPRINTER.space("m", ""), 4.0))
    return found


def hashes(of: RequestShape) -> list[int]:
    return [*of.chunks.hashes] if of.chunks is not None else []


@given(HEADS, HEADS, PASSAGES, st.randoms(use_true_random=False))
def test_a_chunk_has_the_same_hash_wherever_it_stands(
    head: bytes, other: bytes, passages: list[int], dice: object
) -> None:
    shuffled = list(passages)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(hashes(shape(head, passages))) == sorted(hashes(shape(other, shuffled)))


@given(HEADS, PASSAGES, HEADS, PASSAGES)
def test_two_prompts_share_the_chunks_that_both_have_and_no_others(
    head: bytes, passages: list[int], other: bytes, others: list[int]
) -> None:
    shared = set(hashes(shape(head, passages))) & set(hashes(shape(other, others)))
    assert len(shared) == len(set(passages) & set(others))


@given(HEADS, PASSAGES, HEADS, PASSAGES)
def test_a_shared_chunk_counts_and_what_is_counted_is_never_the_whole_prompt(
    head: bytes, passages: list[int], other: bytes, others: list[int]
) -> None:
    held, wanted = shape(head, passages), shape(other, others)
    known = set(held.keys)
    record: Record = ((Incarnation(1), 1000.0),)
    found = [record if key in known else None for key in wanted.keys]
    decision = ready_fleet(1).choose_and_reserve(wanted, found, 1010.0)
    assert wanted.chunks is not None
    shared_bytes = sum(
        end - start
        for key, (start, end) in zip(wanted.chunks.hashes, wanted.chunks.bounds, strict=True)
        if key in known
    )
    least = int(shared_bytes * wanted.prompt_tokens / wanted.prompt_bytes * 0.85) - 8
    assert least <= decision.predicted_tokens < wanted.prompt_tokens


@given(HEADS, PASSAGES, st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=4))
def test_prompts_without_separators_are_shaped_and_placed_as_if_there_were_no_chunks(
    head: bytes, passages: list[int], holders: list[tuple[int, int]]
) -> None:
    canonical = head + b"".join(map(text, passages))
    plain = FINGERPRINTER.shape("m", "", canonical)
    asked = FINGERPRINTER.shape("m", "", canonical)
    add_chunks(asked, BLEND.chunks(canonical, FINGERPRINTER.space("m", ""), 4.0))
    assert all(getattr(plain, name) == getattr(asked, name) for name in RequestShape.__slots__)
    assert asked.keys is asked.rungs
    found: list[Record | None] = [None] * len(plain.rungs)
    for replica, depth in holders:
        for place in range(min(depth, len(found))):
            found[place] = (*(found[place] or ()), (Incarnation(replica + 1), 1000.0))
    one = ready_fleet(4).choose_and_reserve(plain, found, 1010.0)
    two = ready_fleet(4).choose_and_reserve(asked, found, 1010.0)
    assert (one.replica.id, one.kind, one.predicted_tokens) == (
        two.replica.id,
        two.kind,
        two.predicted_tokens,
    )
