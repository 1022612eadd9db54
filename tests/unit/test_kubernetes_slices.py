"""What EndpointSlices say of the fleet."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest

from tests.support.fake_kubernetes import endpoint, endpoint_slice
from warmroute.adapters.discovery.kubernetes.pace import ENDPOINTS_A_TURN, SLICE_ENDPOINTS, Pace
from warmroute.adapters.discovery.kubernetes.slices import Slice, SliceTable, selector_of
from warmroute.config.discovery_urls import KubernetesSource, Pool
from warmroute.ports import Member

SOURCE = KubernetesSource("prod", "vllm", port="http")
TERMINATING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}


def table(*slices: dict[str, Any], source: KubernetesSource = SOURCE) -> SliceTable:
    made = SliceTable(source)
    for slice_ in slices:
        made.put(msgspec.convert(slice_, Slice))
    return made


def urls(made: SliceTable) -> dict[str, str]:
    return {member.replica_id: member.url for member in made.members()}


@pytest.mark.parametrize(
    ("conditions", "draining"),
    [
        ({"ready": True}, False),
        ({"ready": None}, False),
        ({"ready": False}, None),
        ({"ready": False, "serving": True}, None),
        ({"ready": True, "serving": True, "terminating": False}, False),
        (TERMINATING, True),
        ({"ready": False, "serving": False, "terminating": True}, None),
        ({"ready": True, "serving": False, "terminating": True}, None),  # publishNotReadyAddresses
        ({"ready": False, "serving": None, "terminating": True}, None),
        ({"ready": True, "serving": None, "terminating": True}, True),
    ],
)
def test_conditions_say_who_is_a_member_and_who_drains(
    conditions: dict[str, bool | None], draining: bool | None
) -> None:
    members = table(endpoint_slice("s", [endpoint("p", "10.0.0.1", **conditions)])).members()
    assert [member.draining for member in members] == ([] if draining is None else [draining])


def test_an_endpoint_without_conditions_is_ready() -> None:
    bare = {"addresses": ["10.0.0.1"], "conditions": None}
    assert urls(table(endpoint_slice("s", [bare]))) == {"10.0.0.1:8000": "http://10.0.0.1:8000"}


def test_ids_are_pod_names_and_addresses_where_there_is_no_pod() -> None:
    made = table(
        endpoint_slice("s", [endpoint("vllm-0", "10.0.0.1"), endpoint(None, "10.0.0.2")]),
        endpoint_slice("t", [endpoint(None, "fd00::3")], family="IPv6"),
        endpoint_slice("u", [endpoint(None, "gpu.example.com")], family="FQDN"),
        endpoint_slice("v", [endpoint(None, "10.0.0.9", targetRef={"kind": "Node", "name": "n"})]),
    )
    assert urls(made) == {
        "vllm-0": "http://10.0.0.1:8000",
        "10.0.0.2:8000": "http://10.0.0.2:8000",
        "[fd00::3]:8000": "http://[fd00::3]:8000",
        "gpu.example.com:8000": "http://gpu.example.com:8000",
        "10.0.0.9:8000": "http://10.0.0.9:8000",
    }


def test_a_pod_in_two_slices_is_one_member_whatever_comes_first() -> None:
    one = endpoint_slice("s", [endpoint("p", "10.0.0.1", **TERMINATING)])
    other = endpoint_slice("t", [endpoint("p", "10.0.0.1")])
    for slices in ((one, other), (other, one)):
        (member,) = table(*slices).members()
        assert not member.draining


def test_a_pod_made_anew_under_its_name_is_where_it_is_ready() -> None:
    old = endpoint_slice("s", [endpoint("vllm-0", "10.0.0.1", **TERMINATING)])
    new = endpoint_slice("t", [endpoint("vllm-0", "10.0.0.2")])
    for slices in ((old, new), (new, old)):
        assert urls(table(*slices)) == {"vllm-0": "http://10.0.0.2:8000"}


def test_of_a_dual_stack_pod_the_ipv4_address_counts() -> None:
    six = endpoint_slice("a", [endpoint("p", "fd00::1")], family="IPv6")
    four = endpoint_slice("b", [endpoint("p", "10.0.0.1")])
    assert urls(table(six, four)) == {"p": "http://10.0.0.1:8000"}


def test_an_address_that_passed_to_another_pod_is_the_one_that_is_ready() -> None:
    made = table(endpoint_slice("s", [endpoint("a", "10.0.0.1", **TERMINATING), endpoint("b", "10.0.0.1")]))
    assert urls(made) == {"b": "http://10.0.0.1:8000"}


def test_slices_come_change_and_go() -> None:
    made = table(
        endpoint_slice("s", [endpoint("a", "10.0.0.1")]), endpoint_slice("t", [endpoint("b", "10.0.0.2")])
    )
    assert list(urls(made)) == ["a", "b"]
    made.put(msgspec.convert(endpoint_slice("s", [endpoint("c", "10.0.0.3")]), Slice))
    assert list(urls(made)) == ["b", "c"]
    made.drop("t")
    made.drop("never seen")
    assert list(urls(made)) == ["c"]


def test_zone_models_and_labels_come_from_the_slice_and_the_url_stands_back() -> None:
    pool = Pool(frozenset({"from-url"}), "zone-of-url")
    source = dataclasses.replace(SOURCE, pool=pool)
    plain = endpoint_slice(
        "s", [endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2", zone="zb", nodeName="n1")]
    )
    told = endpoint_slice(
        "t",
        [endpoint("c", "10.0.0.3", deprecatedTopology={"topology.kubernetes.io/zone": "zc"})],
        labels={"warmroute.io/model": "label"},
        annotations={"warmroute.io/model": "Qwen/Qwen3-8B, lora-a"},
    )
    labelled = endpoint_slice(
        "u",
        [endpoint("d", "10.0.0.4")],
        labels={"warmroute.io/model": "label", "topology.kubernetes.io/zone": "zu"},
    )
    a, b, c, d = table(plain, told, labelled, source=source).members()
    assert (a.models, a.zone, a.labels) == ({"from-url"}, "zone-of-url", {"service": "vllm"})
    assert (b.zone, b.labels) == ("zb", {"service": "vllm", "node": "n1"})
    assert (c.models, c.zone) == ({"Qwen/Qwen3-8B", "lora-a"}, "zc")
    assert (d.models, d.zone) == ({"label"}, "zu")


def port(name: str | None, number: int, **other: str) -> dict[str, Any]:
    return {"name": name, "port": number, **other}


@pytest.mark.parametrize(
    ("wanted", "ports", "url"),
    [
        ("http", [port("metrics", 9090), port("http", 8000)], "http://10.0.0.1:8000"),
        ("9999", [port("http", 8000)], "http://10.0.0.1:9999"),
        ("9999", None, "http://10.0.0.1:9999"),
        ("", [port(None, 8000)], "http://10.0.0.1:8000"),
        ("", [port("", 8000), port("dns", 53, protocol="UDP")], "http://10.0.0.1:8000"),
        ("http", [port("http", 8443, appProtocol="https")], "https://10.0.0.1:8443"),
    ],
)
def test_the_port_is_named_or_numbered_or_the_only_one(
    wanted: str, ports: list[dict[str, Any]] | None, url: str
) -> None:
    source = dataclasses.replace(SOURCE, port=wanted)
    made = table(endpoint_slice("s", [endpoint("p", "10.0.0.1")], ports=ports), source=source)
    assert urls(made) == {"p": url}
    assert made.problem() == ""


@pytest.mark.parametrize(
    ("wanted", "ports", "said"),
    [
        (
            "http",
            [port("web", 8000), port(None, 9090)],
            "Service 'vllm' has no port named 'http', so none of its replicas is used; it has web 8000, (no name) 9090:"
            " correct ?port=",
        ),
        ("http", None, "it has no TCP port"),
        ("http", [port("http", 8000, protocol="UDP")], "it has no TCP port"),
        (
            "",
            [port("web", 1), port("api", 2)],
            "does not say which port replicas listen on; it has web 1, api 2",
        ),
    ],
)
def test_a_port_that_is_not_there_is_told_with_those_that_are(
    wanted: str, ports: list[dict[str, Any]] | None, said: str
) -> None:
    source = dataclasses.replace(SOURCE, port=wanted)
    made = table(endpoint_slice("s", [endpoint("p", "10.0.0.1")], ports=ports), source=source)
    assert made.members() == ()
    assert said in made.problem()
    made.put(
        msgspec.convert(endpoint_slice("s", [endpoint("p", "10.0.0.1")], ports=[port(wanted, 1)]), Slice)
    )
    assert made.problem() == ""


def test_a_service_that_is_not_there_is_told_and_one_without_pods_is_not() -> None:
    made = table()
    assert "no EndpointSlice of a Service 'vllm': it does not exist" in made.problem()
    assert "app=vllm" in SliceTable(KubernetesSource("prod", selector="app=vllm")).problem()
    made.put(msgspec.convert(endpoint_slice("s", ports=None), Slice))
    assert made.problem() == ""


def test_a_slice_that_cannot_be_read_keeps_what_it_said_and_is_told() -> None:
    made = table(endpoint_slice("s", [endpoint("p", "10.0.0.1")]))
    made.unreadable("s", "Expected `str`")
    assert urls(made) == {"p": "http://10.0.0.1:8000"}
    assert "'s' cannot be read (Expected `str`)" in made.problem()
    made.drop("s")
    assert made.members() == ()


def test_a_prefix_keeps_pods_of_one_name_apart() -> None:
    made = table(
        endpoint_slice("s", [endpoint("vllm-0", "10.0.0.1")]),
        source=dataclasses.replace(SOURCE, id_prefix="eu-"),
    )
    assert [member.replica_id for member in made.members()] == ["eu-vllm-0"]


def test_members_come_in_one_order() -> None:
    endpoints = [endpoint(f"p{number}", f"10.0.0.{number}") for number in (3, 1, 2)]
    members: tuple[Member, ...] = table(endpoint_slice("s", endpoints)).members()
    assert [member.replica_id for member in members] == ["p1", "p2", "p3"]


def test_slices_are_found_by_their_service_or_by_a_selector() -> None:
    assert selector_of(SOURCE) == "kubernetes.io/service-name=vllm"
    assert selector_of(KubernetesSource("p", selector="app in (a,b)")) == "app in (a,b)"


def test_others_have_their_turn_while_many_slices_are_read() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def read(slices: int, endpoints: int) -> int:
        nonlocal turns
        slice_ = msgspec.convert(
            endpoint_slice("s", [endpoint(f"p{n}", f"10.0.0.{n}") for n in range(endpoints)]), Slice
        )
        others, pace = asyncio.create_task(count()), Pace()
        await asyncio.sleep(0)
        turns = 0
        for _ in range(slices):
            await pace.read(slice_)
        others.cancel()
        return turns

    assert asyncio.run(read(10, 100)) == 5, "of 100 endpoints, two at a time"
    assert asyncio.run(read(100, 0)) == 100 * SLICE_ENDPOINTS // ENDPOINTS_A_TURN
    assert asyncio.run(read(1, 50)) == 0


@pytest.mark.parametrize(("said", "ranks"), [("4", 4), (None, 2), ("0", 2), ("many", 2)])
def test_ranks_come_from_the_slice_and_the_url_stands_back(said: str | None, ranks: int) -> None:
    slice_ = endpoint_slice("s", [endpoint("p", "10.0.0.1")])
    if said is not None:
        slice_["metadata"].setdefault("annotations", {})["warmroute.io/ranks"] = said
    made = table(slice_, source=dataclasses.replace(SOURCE, pool=Pool(ranks=2)))
    assert [member.ranks for member in made.members()] == [ranks]
    assert ("warmroute.io/ranks" in made.problem()) is (said in ("0", "many"))
