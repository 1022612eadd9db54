"""Ladder, keys and shape of a fingerprint."""

from __future__ import annotations

from warmroute.core.prompt.fingerprint import (
    BLOCK_BYTES,
    GRID,
    HEAD_BYTES,
    MAX_DEPTH_BYTES,
    MAX_SPACES,
    Fingerprinter,
    depth_bytes,
)

SECRET = b"0123456789abcdef"
TEXT = b"".join(b"%07d " % number for number in range(50_000))


def test_the_ladder_has_every_block_first_and_then_strides_that_double() -> None:
    strides = [deeper - shallower for shallower, deeper in zip((0, *GRID), GRID, strict=False)]
    assert strides[:25] == [512] * 8 + [1024] * 8 + [2048] * 8 + [4096]
    assert GRID[-1] <= MAX_DEPTH_BYTES < GRID[-1] + strides[-1] * 2


def test_a_long_prompt_has_few_rungs() -> None:
    assert len(GRID) < 120
    assert len(Fingerprinter(SECRET).shape("m", "", TEXT[:200_000]).rungs) == 44


def test_rungs_tell_how_deep_two_prompts_agree() -> None:
    hasher = Fingerprinter(SECRET)
    shared = 10_000
    first = hasher.shape("m", "", TEXT[:40_000])
    second = hasher.shape("m", "", TEXT[:shared] + b"!" + TEXT[shared + 1 : 40_000])
    equal = [a == b for a, b in zip(first.rungs, second.rungs, strict=True)]
    assert equal == [depth <= shared for depth in GRID[: len(equal)]]
    assert equal.count(True) > 0
    assert equal.count(False) > 0


def test_a_rung_needs_its_whole_depth() -> None:
    hasher = Fingerprinter(SECRET)
    assert hasher.shape("m", "", TEXT[: BLOCK_BYTES - 1]).rungs == []
    assert len(hasher.shape("m", "", TEXT[:BLOCK_BYTES]).rungs) == 1
    for index in (7, 8, 20):
        assert len(hasher.shape("m", "", TEXT[: depth_bytes(index)]).rungs) == index + 1
        assert len(hasher.shape("m", "", TEXT[: depth_bytes(index) - 1]).rungs) == index


def test_model_scope_and_secret_separate_fingerprints() -> None:
    prompt = TEXT[:2048]
    shapes = [
        Fingerprinter(SECRET).shape("m", "", prompt),
        Fingerprinter(SECRET).shape("m2", "", prompt),
        Fingerprinter(SECRET).shape("m", "2", prompt),
        Fingerprinter(SECRET).shape("m\0", "", prompt),
        Fingerprinter(SECRET).shape("", "m", prompt),
        Fingerprinter(b"another").shape("m", "", prompt),
    ]
    rungs = [rung for shape in shapes for rung in shape.rungs]
    assert len(set(rungs)) == len(rungs) == 4 * len(shapes)


def test_the_ring_sees_the_same_whatever_the_secret() -> None:
    one = Fingerprinter(SECRET).shape("m", "t", TEXT[:9000], "session")
    two = Fingerprinter(b"another").shape("m", "t", TEXT[:9000], "session")
    assert (one.ring_key, one.head_key) == (two.ring_key, two.head_key)
    assert one.rungs != two.rungs


def test_ring_keys_keep_their_values_across_releases() -> None:
    shape = Fingerprinter(SECRET).shape("model", "scope", b"prompt", "session")
    assert (shape.head_key, shape.ring_key) == (0xFBBD6DF4E2EF5578, 0x25F0D80B92A74B9A)


def test_the_head_key_covers_the_head_only() -> None:
    hasher = Fingerprinter(SECRET)
    head = TEXT[:HEAD_BYTES]
    assert hasher.shape("m", "", head + b"a").head_key == hasher.shape("m", "", head + b"b" * 9000).head_key
    assert hasher.shape("m", "", head).head_key == hasher.shape("m", "", head + b"a").head_key
    assert hasher.shape("m", "", head[:-1]).head_key != hasher.shape("m", "", head).head_key
    assert hasher.shape("m", "", b"hi").head_key != hasher.shape("m", "", b"ho").head_key


def test_a_session_takes_the_prompts_place_on_the_ring_and_nowhere_else() -> None:
    hasher = Fingerprinter(SECRET)
    plain = hasher.shape("m", "", TEXT[:5000])
    ours = hasher.shape("m", "", TEXT[:5000], "s1")
    later = hasher.shape("m", "", TEXT[4000:9000], "s1")
    theirs = hasher.shape("m", "", TEXT[:5000], "s2")
    assert plain.ring_key == plain.head_key
    assert ours.ring_key == later.ring_key
    assert len({plain.ring_key, ours.ring_key, theirs.ring_key}) == 3
    assert ours.rungs == plain.rungs
    assert ours.head_key == plain.head_key
    assert hasher.shape("m2", "", TEXT[:5000], "s1").ring_key != ours.ring_key


def test_prompt_tokens_are_estimated_unless_known() -> None:
    hasher = Fingerprinter(SECRET)
    assert hasher.shape("m", "", TEXT[:4000], None, 4.0).prompt_tokens == 1000
    assert hasher.shape("m", "", TEXT[:4000], None, 4.0, 40_000).prompt_tokens == 10_000
    assert hasher.shape("m", "", TEXT[:4000], None, 4.0, 0, 77).prompt_tokens == 77
    assert hasher.shape("m", "", b"").prompt_tokens == 1


def test_remembered_spaces_are_bounded() -> None:
    hasher = Fingerprinter(SECRET)
    before = hasher.shape("m", "", TEXT[:2048]).rungs
    for number in range(3 * MAX_SPACES):
        hasher.shape("m", f"salt {number}", b"")
    hasher.shape("m" * 10_000, "", b"")
    assert len(hasher._spaces) <= MAX_SPACES
    assert all(len(model) < 10_000 for model, _ in hasher._spaces)
    assert hasher.shape("m", "", TEXT[:2048]).rungs == before
