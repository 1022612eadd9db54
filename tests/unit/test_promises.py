"""Promises to keep prefixes: made, renewed by reads, over, and never more than so many."""

from __future__ import annotations

from warmroute.core.prompt.promises import Promise, Promises, chain
from warmroute.core.types import FingerprintHash


def promise(key: int, ttl_s: float = 300.0) -> Promise:
    return Promise(key, "t", "m", [FingerprintHash(key)], 2000, ttl_s, 0.0)


def test_a_read_renews_the_longest_that_holds() -> None:
    promises = Promises(10)
    promises.make(promise(1), 0.0)
    promises.make(promise(2), 0.0)
    found = promises.read([1, 2, 3], 200.0)
    assert found is not None
    assert (found.key, found.until_s) == (2, 500.0)
    assert [p.key for p in promises.live(400.0)] == [2]
    assert promises.read([1], 400.0) is None
    assert promises.read([2], 600.0) is None
    assert len(promises) == 0


def test_a_longer_promise_about_the_same_prefix_stays() -> None:
    promises = Promises(10)
    promises.make(promise(1, 3600.0), 0.0)
    promises.make(promise(1), 100.0)
    assert [p.until_s for p in promises.live(100.0)] == [3700.0]
    promises.make(promise(1), 3701.0)
    assert [p.until_s for p in promises.live(3701.0)] == [4001.0]


def test_there_are_never_more_than_so_many() -> None:
    promises = Promises(3)
    for key in range(5):
        promises.make(promise(key), float(key))
    assert [p.key for p in promises.live(5.0)] == [2, 3, 4]
    assert promises.dropped == 2
    promises.make(promise(9), 1000.0)
    assert len(promises) == 1
    assert promises.dropped == 2


def test_keys_depend_on_space_and_on_every_byte_before() -> None:
    keys = chain(7, b"abcdef", [2, 4, 6])
    assert chain(7, b"abcd", [2, 4]) == keys[:2]
    assert chain(8, b"abcdef", [2, 4, 6])[0] != keys[0]
    assert chain(7, b"xbcdef", [2, 4, 6])[2] != keys[2]
    assert chain(7, b"", []) == []
