"""Keys: made, kept as hashes, found by what a head shows, and no longer once they are gone or over."""

from __future__ import annotations

import hashlib
import os

import pytest

from warmroute.tenants import keys
from warmroute.tenants.caller import Caller
from warmroute.tenants.keys import KeyRecord, Keyring, decoded, digest_of, encoded, new_key, presented
from warmroute.tenants.tenant import Priority, Tenant, Tenants


def record(number: int, **fields: object) -> tuple[KeyRecord, bytes]:
    key_id, text = new_key(os.urandom(6), number.to_bytes(32, "big"))
    made = {"id": key_id, "tenant": f"t{number}", "sha256": digest_of(text.encode()).hex(), **fields}
    return KeyRecord(**made), text.encode()  # type: ignore[arg-type]


def test_a_key_is_found_by_its_text_alone_and_only_in_full() -> None:
    ring = Keyring()
    one, key = record(1)
    ring.use([one, record(2)[0]], Tenants({}))
    found = ring.find(key)
    assert found is not None
    assert (found.tenant.id, found.key_id) == ("t1", one.id)
    for wrong in (b"", key[:-1], key + b"x", key.upper(), bytes.fromhex(one.sha256), one.sha256.encode()):
        assert ring.find(wrong) is None


def test_what_is_kept_holds_the_hash_and_not_the_key() -> None:
    one, key = record(3, name="ci", models=("m",), expires_s=5.0, priority=Priority.BATCH)
    kept = encoded(one)
    assert key not in kept
    assert hashlib.sha256(key).hexdigest().encode() in kept
    assert decoded(kept) == one
    assert one.sha256 not in str(one.shown())


def test_several_keys_of_a_tenant_are_good_at_once_and_one_that_is_gone_is_not() -> None:
    ring = Keyring()
    old, old_key = record(1, tenant="a")
    new, new_key_text = record(2, tenant="a")
    ring.use([old, new], Tenants({}))
    assert ring.find(old_key) is not None
    ring.use([new], Tenants({}))
    assert ring.find(old_key) is None
    found = ring.find(new_key_text)
    assert found is not None
    assert found.tenant.id == "a"


def test_a_change_of_one_key_makes_nothing_anew_of_all_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(tenant: Tenant, key_id: str, *rest: object) -> Caller:
        made.append(key_id)
        return Caller(tenant, key_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(keys, "Caller", make)
    ring = Keyring()
    records, texts = zip(*[record(number) for number in range(300)], strict=True)
    tenants = Tenants({})
    ring.use(records, tenants)
    assert (len(ring), made) == (300, [])
    first = ring.find(texts[7])
    assert ring.find(texts[7]) is first
    ring.use(records[1:], tenants)
    assert ring.find(texts[0]) is None
    again = ring.find(texts[7])
    assert again is not first, "what it stood for is found anew"
    ring.retell(Tenants({"t7": Tenant("t7", priority=Priority.BATCH)}))
    retold = ring.find(texts[7])
    assert retold is not None
    assert retold.priority == Priority.BATCH
    assert made == [records[7].id] * 3


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"id":"a","tenant":"t","sha256":"zz"}', b'{"id":"a","tenant":"t","sha256":"' + b"A" * 64,
     b'{"id":"a","tenant":"t","sha256":"' + b"0" * 64 + b'","extra":1}', b'{"id":1,"tenant":"t","sha256":""}'],
)  # fmt: skip
def test_what_is_no_record_is_refused_and_not_repeated(line: bytes) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        decoded(line)
    assert "0000" not in str(caught.value)


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "found"),
    [
        (b"Bearer k", b"", b"k"),
        (b"bearer  k ", b"x", b"k"),
        (b"", b" x ", b"x"),
        (b"Basic abc", b"x", b"x"),
        (b"Bearer ", b"x", b"x"),
        (b"Bearerk", b"", b""),
        (b"", b"", b""),
    ],
)
def test_a_bearer_comes_before_x_api_key(authorization: bytes, x_api_key: bytes, found: bytes) -> None:
    assert presented(authorization, x_api_key) == found


def test_a_key_may_use_what_both_it_and_its_tenant_may() -> None:
    narrow = Tenant("a", models=frozenset({"m", "n"}))
    assert [Caller(narrow, "k").may_use(model) for model in "mno"] == [True, True, False]
    assert [Caller(narrow, "k", frozenset("no")).may_use(model) for model in "mno"] == [False, True, False]
    nothing = Caller(narrow, "k", frozenset("o"))
    assert not any(nothing.may_use(model) for model in ("m", "n", "o", ""))
    assert Caller(Tenant("a"), "k").may_use("anything")


def test_whoever_the_settings_do_not_name_is_as_the_star_says() -> None:
    tenants = Tenants({"*": Tenant("*", group="rest", weight=0.5), "a": Tenant("a")})
    assert tenants.find("a").weight == 1.0
    other = tenants.find("b")
    assert (other.id, other.group, other.weight) == ("b", "rest", 0.5)
    assert tenants.find("b") is other
