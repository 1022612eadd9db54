"""Which replicas count by what agents said, and when; and which records cannot be used."""

from __future__ import annotations

import json

import pytest

from warmroute.adapters.discovery.heartbeats import Heartbeat, Heartbeats, UnusableError, read_heartbeat


def said(replica_id: str = "a", state: str = "ready", **fields: object) -> Heartbeat:
    url = f"http://{replica_id}:1"
    record = {"format": 1, "id": replica_id, "url": url, "state": state, "interval_s": 1.0}
    return read_heartbeat(json.dumps({**record, **fields}).encode())


def ids(heartbeats: Heartbeats) -> list[str]:
    return [str(member.replica_id) for member in heartbeats.members()]


def test_who_starts_is_not_named_and_who_drains_is_as_such() -> None:
    heartbeats = Heartbeats()
    heartbeats.publish(said("b", "starting"), 0.0)
    heartbeats.publish(said("a", "draining"), 0.0)
    assert [(m.replica_id, m.draining) for m in heartbeats.members()] == [("a", True)]
    heartbeats.publish(said("b"), 0.0)
    assert ids(heartbeats) == ["a", "b"]


def test_a_load_alone_makes_no_other_members() -> None:
    heartbeats = Heartbeats()
    assert heartbeats.publish(said("a", running=1), 0.0)
    assert not heartbeats.publish(said("a", running=2), 0.1)
    assert heartbeats.publish(said("a", "draining", running=2), 0.2)
    assert heartbeats.publish(said("a", "draining", zone="z"), 0.3)
    assert heartbeats.publish(said("a", "gone"), 0.4)
    assert not heartbeats.publish(said("a", "gone"), 0.5)


def test_a_record_that_is_over_goes_when_a_list_confirms_it() -> None:
    heartbeats = Heartbeats()
    heartbeats.listed([(said("a"), 4.0), (said("b"), 4.0)], 0.0, 0.0)
    heartbeats.listed([(said("a"), 4.0), (said("b"), -0.1)], 3.0, 3.0)
    assert ids(heartbeats) == ["a", "b"], "by what was known here it may still hold"
    assert heartbeats.next_end_s() == 4.0
    heartbeats.listed([(said("a"), 4.0)], 4.0, 4.0)
    assert ids(heartbeats) == ["a"]


def test_a_goodbye_counts_at_once_and_no_list_that_was_under_way_undoes_it() -> None:
    heartbeats = Heartbeats()
    heartbeats.listed([(said("a"), 4.0), (said("b"), 4.0)], 0.0, 0.0)
    heartbeats.publish(said("b", "gone"), 2.0)
    heartbeats.listed([(said("a"), 4.0), (said("b"), 4.0)], 1.9, 2.1)
    assert ids(heartbeats) == ["a"]
    heartbeats.listed([(said("a"), 4.0), (said("b"), 4.0)], 3.0, 3.1)
    assert ids(heartbeats) == ["a", "b"], "it came again"
    heartbeats.publish(said("a", "gone"), 4.0)
    heartbeats.publish(said("b", "gone"), 4.0)
    assert ids(heartbeats) == []


def test_what_was_published_while_a_list_was_read_is_newer() -> None:
    heartbeats = Heartbeats()
    heartbeats.publish(said("a", "draining"), 2.0)
    heartbeats.listed([(said("a"), 4.0)], 1.0, 2.5)
    assert heartbeats.members()[0].draining
    heartbeats.listed([(said("a"), 4.0)], 3.0, 3.1)
    assert not heartbeats.members()[0].draining


def test_after_an_outage_everybody_has_time_to_speak() -> None:
    heartbeats = Heartbeats()
    heartbeats.listed([(said("a"), 4.0), (said("b"), 4.0)], 0.0, 0.0)
    heartbeats.connected(100.0)
    heartbeats.listed([(said("b"), 4.0)], 100.1, 100.1)
    assert ids(heartbeats) == ["a", "b"]
    heartbeats.listed([(said("b"), 4.0)], 104.1, 104.1)
    assert ids(heartbeats) == ["b"]


def test_the_last_to_fall_silent_stay_until_somebody_speaks() -> None:
    heartbeats = Heartbeats()
    heartbeats.listed([(said("a"), 4.0), (said("b"), 4.0)], 0.0, 0.0)
    heartbeats.listed([], 9.0, 9.0)
    assert (ids(heartbeats), heartbeats.silent) == (["a", "b"], 2)
    heartbeats.listed([(said("c", "starting"), 4.0)], 10.0, 10.0)
    assert (ids(heartbeats), heartbeats.silent) == ([], 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 2"),
        ({"id": ""}, "id ''"),
        ({"id": "two words"}, "id 'two words'"),
        ({"id": "pod#3"}, "data-parallel rank"),
        ({"ranks": 0}, "ranks 0"),
        ({"url": "ftp://x"}, "url 'ftp://x'"),
        ({"url": "http://x/v1"}, "url"),
        ({"url": "http://user@x"}, "url"),
        ({"url": "http://x:99999"}, "url"),
        ({"state": "well"}, "no record of an agent"),
        ({"models": "m"}, "no record of an agent"),
        ({"interval_s": 0}, "interval_s 0"),
        ({"interval_s": 1e9}, "interval_s"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(change: dict[str, object], says: str) -> None:
    with pytest.raises(UnusableError, match=r".+") as failed:
        said(**change)
    assert says in str(failed.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"[" * 5000, b'{"format":1}'])
def test_other_text_is_no_record(text: bytes) -> None:
    with pytest.raises(UnusableError):
        read_heartbeat(text)


def test_what_clients_could_make_grow_is_bounded() -> None:
    many = {str(n): "v" for n in range(1000)}
    member = said(models=[str(n) for n in range(5000)], labels=many).member
    assert (len(member.models), len(member.labels)) == (256, 64)
